"""Pre-training: contrast, matching and masked words, with momentum distillation."""
