"""Sampling with shared prefixes: caches, generation, the drop-in predictor."""
