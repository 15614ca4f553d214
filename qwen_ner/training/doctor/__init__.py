"""What can be known about a training before it is paid for."""
