"""Files to `Example`s, and `Example`s to token ids."""
