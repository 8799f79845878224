"""Fitting tokenizer and model to candle history, on faster kernels than the plain network's."""
