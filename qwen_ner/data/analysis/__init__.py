"""Statistics of a data set, and places where its annotation is probably wrong."""
