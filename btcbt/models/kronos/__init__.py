"""Kronos (Shi et al., 2025, arXiv 2508.02739): upstream's three names, written from the architecture."""

from btcbt.models.kronos.inference.predictor import KronosPredictor
from btcbt.models.kronos.network.model import Kronos
from btcbt.models.kronos.network.tokenizer import KronosTokenizer

__all__ = ["Kronos", "KronosPredictor", "KronosTokenizer"]
