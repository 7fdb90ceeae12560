"""The one dial: what a text, a budget and this machine decide, so that nobody has to."""
