"""What a training tells its trackers."""
