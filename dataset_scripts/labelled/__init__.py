"""Texts with labels: of one image, and of two."""
