"""How good a model is, in units that compare."""
