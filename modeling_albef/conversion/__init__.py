"""Weights in and out: other names of ALBEF's parameters, checkpoint files, ONNX."""
