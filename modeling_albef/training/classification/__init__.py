"""Fine-tuning for the classification of images with texts: arguments, trainer, evaluator, metrics."""
