"""Torch modules with flat keyword arguments; torch only, no configuration objects."""
