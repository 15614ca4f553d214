"""Optimizations that help on CPUs only; a GPU computes without them."""
