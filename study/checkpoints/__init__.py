"""Trained networks on disk: descriptions, tensors, and weights that a user brings."""
