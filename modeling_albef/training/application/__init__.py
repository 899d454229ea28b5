"""What the run scripts share: arguments, data, processor, model, and the run itself."""
