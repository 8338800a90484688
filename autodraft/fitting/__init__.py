"""Drafts out of the target by linear algebra: what is left of it is fitted to its streams, and rounded, in one pass."""
