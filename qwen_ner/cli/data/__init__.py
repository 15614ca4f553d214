"""Commands on annotated data: nothing is trained."""
