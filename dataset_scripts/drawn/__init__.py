"""Scenes of colored shapes: their objects, texts and images."""
