"""Targets and candles to equity: of accounts on one symbol, and of books on several; the only package with vectorbt."""

from btcbt.portfolio.accounts import (
    MAX_CARRY,
    MIN_PRICE,
    Fills,
    Simulation,
    closing_times,
    fill_times,
    live_portfolio,
    simulate,
    simulate_variants,
)
from btcbt.portfolio.books import simulate_book, simulate_book_variants

__all__ = [
    "MAX_CARRY",
    "MIN_PRICE",
    "Fills",
    "Simulation",
    "closing_times",
    "fill_times",
    "live_portfolio",
    "simulate",
    "simulate_book",
    "simulate_book_variants",
    "simulate_variants",
]
