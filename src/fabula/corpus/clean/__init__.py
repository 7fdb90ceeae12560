"""Cleaning: what is done to the text of a corpus before it is split, and what it took away."""
