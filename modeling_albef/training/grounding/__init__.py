"""Grounding: which box of an image a text refers to, read from heat maps."""
