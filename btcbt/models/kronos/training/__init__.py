"""Fitting tokenizer and model to candle history."""
