"""Kronos as transformers sees it: Auto classes and a one-call prediction."""
