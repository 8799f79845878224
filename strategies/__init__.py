"""Strategies, one to a file: copy the one that is nearest to what you want."""
