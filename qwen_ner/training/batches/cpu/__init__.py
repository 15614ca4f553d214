"""Optimizations that help on CPUs only; nothing here is imported on a GPU."""
