"""Evaluation: score predicted entities against gold ones, and report what the scores mean."""
