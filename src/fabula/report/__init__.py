"""What happened, as a page a person would like to look at. Reads the JSON of a run, never its objects."""
