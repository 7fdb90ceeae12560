"""The Spanish fables."""
