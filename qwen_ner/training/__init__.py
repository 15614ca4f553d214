"""From a recipe to a trained folder."""
