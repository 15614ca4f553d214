"""A search over the keys of a recipe."""
