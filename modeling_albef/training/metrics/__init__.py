"""Metrics as pure functions that several tasks share."""
