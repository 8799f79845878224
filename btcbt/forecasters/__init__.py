"""Forecasters: windows of known candles in, sampled futures out."""

from btcbt.forecasters.base import Forecaster, Postprocessor
from btcbt.forecasters.registry import create_forecaster
from btcbt.loading import Params

__all__ = ["Forecaster", "Params", "Postprocessor", "create_forecaster"]
