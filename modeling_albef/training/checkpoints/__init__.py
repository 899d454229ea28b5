"""Whole checkpoints, what processes agree on, and pushes."""
