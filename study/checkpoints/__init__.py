"""Trained networks on disk: their descriptions, their tensors, and weights from elsewhere."""
