"""Radial networks (Dotzel et al., arXiv 2404.04900): a trained router picks each token's next block."""
