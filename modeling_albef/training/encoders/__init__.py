"""What a training that starts from two encoders does first."""
