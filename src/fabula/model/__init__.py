"""Ids to logits. Knows nothing of tokenizers, losses, devices or files."""
