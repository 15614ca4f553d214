"""Forms that other tools and data sets write; all but tables are read only."""
