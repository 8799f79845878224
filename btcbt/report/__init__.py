"""Stored runs, and numbers to figures and tables."""
