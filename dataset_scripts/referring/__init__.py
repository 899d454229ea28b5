"""Texts that refer to a box of an image, one row a text."""
