"""Sampling candle paths with shared prefixes: cache, generation within and beyond the window, the drop-in predictor."""
