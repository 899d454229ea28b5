"""Pre-training for the reasoning about two images."""
