"""Scores and their significance: pure functions of arrays, and the table that defines each score."""

from btcbt.metrics.pairs import against, confidence_sets
from btcbt.metrics.panel import LossPanel, score_batch
from btcbt.metrics.returns import summarise_returns
from btcbt.metrics.streaming import ScoreStream

__all__ = [
    "LossPanel",
    "ScoreStream",
    "against",
    "confidence_sets",
    "score_batch",
    "summarise_returns",
]
