"""Logits of all exits for every image of a split: collected once, stored, read."""
