"""Prediction in one call, from a model and a table of candles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from btcbt.errors import CandleError, ConfigError
from btcbt.models.kronos.inference.predictor import KronosPredictor
from btcbt.models.kronos.network.model import Kronos
from btcbt.models.kronos.network.tokenizer import KronosTokenizer
from btcbt.randomness import MAX_HORIZON
from btcbt.records import CHANNELS, Candles

if TYPE_CHECKING:
    from btcbt.models.kronos.hf.auto import KronosForCausalLM

TIME_COLUMNS = ("timestamps", "timestamp", "open_time", "datetime", "date", "time")
"""Columns that may hold the open times, if the index does not."""


def predict_btc(
    model: KronosForCausalLM | Kronos,
    historical_data: pd.DataFrame | Candles,
    horizon: int = 48,
    *,
    tokenizer: KronosTokenizer | None = None,
    context: int = 360,
    n_paths: int = 100,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> pd.DataFrame:
    """Sample the H candles after a history and return the median of the paths, as `btcbt predict` does.

    Parameters
    ----------
    model : KronosForCausalLM or Kronos
        From `AutoModelForCausalLM.from_pretrained` or `Kronos.from_pretrained`; stays on its device.
    historical_data : DataFrame or Candles
        Columns open, high, low, close, and optionally volume and amount; open times as index or in a column of
        `TIME_COLUMNS`, UTC if they have no zone, evenly spaced over the newest `context` rows.
    horizon : int
        H.
    tokenizer : KronosTokenizer, optional
        The one beside the model's files if left out.
    context : int
        T, number of newest rows to use; all rows if there are fewer.
    n_paths, seed
        S, and the key of the random numbers.
    temperature, top_k, top_p
        Filters; see `btcbt.models.kronos.inference.sampling`.

    Returns
    -------
    DataFrame (H, 6)
        open, high, low, close, volume, amount, each the median over the paths; indexed by open time, in the zone of
        the input. A sample from a model, not the future: how often it is right is for a walk-forward to measure.

    Raises
    ------
    CandleError
        If a column or the times are missing, times are uneven, or a value is NaN.
    CheckpointError
        If the model's tokenizer is not found.
    ConfigError
        If a parameter is out of range.
    """
    if not 1 <= horizon <= MAX_HORIZON:
        raise ConfigError(f"horizon {horizon}: expected 1 to {MAX_HORIZON} candles")
    if context < 2:
        raise ConfigError(f"context {context}: expected at least 2 candles")
    frame, times = _table(historical_data)
    frame, times = frame.iloc[-context:], times[-context:]
    step = _step(times)
    utc = times.tz_localize("UTC") if times.tz is None else times.tz_convert("UTC")
    ahead = pd.date_range(utc[-1] + step, periods=horizon, freq=step)
    network = model if isinstance(model, Kronos) else model.network
    if tokenizer is None:
        if isinstance(model, Kronos):
            raise ConfigError("tokenizer: a Kronos does not know its tokenizer; pass one")
        tokenizer = model.tokenizer
    was_training = model.training
    device = next(model.parameters()).device
    predictor = KronosPredictor(network, tokenizer, device)
    try:
        paths = predictor.predict_paths(
            [frame],
            [utc],
            [ahead],
            horizon,
            T=temperature,
            top_k=top_k,
            top_p=top_p,
            sample_count=n_paths,
            seed=seed,
        )
    finally:
        model.train(was_training)
    index = ahead.tz_localize(None) if times.tz is None else ahead.tz_convert(times.tz)
    medians = np.median(paths[0].astype(np.float64), axis=0)
    return pd.DataFrame(medians, columns=list(CHANNELS), index=index.rename(times.name))


def _table(data: pd.DataFrame | Candles) -> tuple[pd.DataFrame, pd.DatetimeIndex]:
    """Channels and open times of a table."""
    if isinstance(data, Candles):
        times = pd.DatetimeIndex(data.open_time.astype("datetime64[ms]"), tz="UTC", name="open_time")
        return pd.DataFrame(data.values, columns=list(CHANNELS)), times
    if isinstance(data.index, pd.DatetimeIndex):
        return data, data.index
    for name in TIME_COLUMNS:
        if name in data.columns:
            column = data[name]
            numbers = pd.api.types.is_numeric_dtype(column)
            try:
                return data, pd.DatetimeIndex(pd.to_datetime(column, unit="ms" if numbers else None), name=name)
            except (ValueError, TypeError) as error:
                raise CandleError(f"historical_data: column '{name}' holds no times ({error})") from None
    raise CandleError(
        f"historical_data: no open times; give a DatetimeIndex, or one of the columns {', '.join(TIME_COLUMNS)}"
    )


def _step(times: pd.DatetimeIndex) -> pd.Timedelta:
    """The interval of evenly spaced times."""
    if len(times) < 2:
        raise CandleError(f"historical_data: {len(times)} rows; give at least 2")
    steps = np.diff(times.asi8)
    if times.hasnans or steps[-1] <= 0 or (steps != steps[-1]).any():
        row = 0 if times.hasnans else int(np.argmax(steps != steps[-1]))
        raise CandleError(
            f"historical_data: times are not evenly spaced near {times[row]}; sort them, or use fewer rows"
        )
    return times[-1] - times[-2]
