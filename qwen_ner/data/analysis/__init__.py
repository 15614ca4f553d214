"""What a data set holds, and where its annotation is probably wrong."""
