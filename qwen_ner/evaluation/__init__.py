"""Measuring: predicted entities against gold ones, and what follows from the counts."""
