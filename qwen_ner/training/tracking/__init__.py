"""The trackers of a training."""
