"""Several trainings of one recipe: a search over its keys, or a model for each fold of its rows."""
