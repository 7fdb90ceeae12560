"""Variants of a recipe, trained on the same data with the same budget and seeds, and set side by side."""
