"""Formats of annotated files, one module each: what is in them to `Example`s, and back."""
