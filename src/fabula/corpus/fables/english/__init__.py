"""The English fables."""
