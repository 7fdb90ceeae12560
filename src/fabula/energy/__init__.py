"""What a run cost in electricity and in CO2: an estimate, and by which method."""
