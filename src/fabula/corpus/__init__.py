"""Text, before anyone knows what a token is."""
