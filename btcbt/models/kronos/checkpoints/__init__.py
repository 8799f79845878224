"""Checkpoints: files, places, published facts, model cards."""
