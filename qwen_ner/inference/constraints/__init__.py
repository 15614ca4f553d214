"""What may be written for one text."""
