"""What helps on a CPU only."""
