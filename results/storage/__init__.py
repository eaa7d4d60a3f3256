"""Local paths, paths on object stores, and files that are written whole or not at all."""
