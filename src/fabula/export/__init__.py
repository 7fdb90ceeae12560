"""Leaving for other tools, and coming from them."""
