"""Forms that other tools and data sets write; read only."""
