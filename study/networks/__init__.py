"""Backbones, exit heads, the network that they make together, and its precisions."""
