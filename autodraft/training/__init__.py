"""What needs gradients: the bundled reference model, its corpus and its prompt sets."""
