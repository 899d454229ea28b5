"""Evaluation of both tasks: ranking engines, evaluators and metrics."""
