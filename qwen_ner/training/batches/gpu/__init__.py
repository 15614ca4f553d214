"""Optimizations for GPUs, where a short step waits for its kernel launches; the CPU computes without them."""
