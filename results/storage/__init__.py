"""Paths here and on object stores, and files that are written whole or not at all."""
