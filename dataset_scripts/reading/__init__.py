"""Annotation files and images: read, checked, and made rows of a data set."""
