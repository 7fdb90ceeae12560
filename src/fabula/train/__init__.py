"""Logits to loss to weights."""
