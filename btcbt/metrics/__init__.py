"""Scores and their significance: pure functions of arrays."""

from btcbt.metrics.panel import LossPanel, score_batch
from btcbt.metrics.returns import summarise_returns
from btcbt.metrics.streaming import ScoreStream
from btcbt.metrics.summary import against, compare, confidence_sets, summarise

__all__ = [
    "LossPanel",
    "ScoreStream",
    "against",
    "compare",
    "confidence_sets",
    "score_batch",
    "summarise",
    "summarise_returns",
]
