"""A character and its tag a line: schemes, what tags mean, and the files."""
