"""What writes completions: the torch loop and what it needs."""
