"""A run in the formats of other libraries: quantstats, Nixtla's and fev."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from btcbt.config import interval_ms
from btcbt.errors import StoreError
from btcbt.files import replacing
from btcbt.records import CHANNELS, FloatArray, IntArray
from btcbt.report.figures import milliseconds, symbol_of
from btcbt.storage.runs import Run as StoredRun
from btcbt.storage.runs import require

if TYPE_CHECKING:
    import pandas as pd

    from btcbt.report.run import Run


class FevTask(NamedTuple):
    """Keywords of ``fev.Task``, and for each forecaster its predictions, as ``Task.evaluation_summary`` takes them."""

    task: Mapping[str, Any]
    predictions: Mapping[str, Sequence[Sequence[Mapping[str, list[float]]]]]


def daily_returns(run: StoredRun) -> pd.DataFrame:
    """Net returns per UTC day of every account, the first from the initial cash; a day without a candle has 0."""
    equity = run.equity().tz_localize(None)
    closes = equity.resample("1D").last().ffill()
    before = closes.shift(fill_value=run.config.portfolio.initial_cash)
    returns = (closes / before.where(before > 0) - 1.0).fillna(0.0)
    returns.index.name = "date"
    return returns


def nixtla_frame(run: Run, levels: Sequence[int], channel: str) -> pd.DataFrame:
    """Forecasts beside outcomes in long form; see `Run.to_nixtla`."""
    import pandas as pd

    if any(not 0 < level < 100 for level in levels):
        raise StoreError(f"levels {tuple(levels)}: central intervals in percent are expected, such as (50, 80, 95)")
    rows, origins, outcome = _outcomes(run, channel)
    length, horizon = interval_ms(run.config.candles.interval), run.config.windows.horizon
    opened = origins[:, None] + length * np.arange(horizon, dtype=np.int64)
    columns: dict[str, Any] = {
        "unique_id": symbol_of(run),
        "ds": opened.ravel().astype("datetime64[ms]"),
        "cutoff": np.repeat(origins - length, horizon).astype("datetime64[ms]"),
        "y": outcome.ravel(),
    }
    ends = {f"-{end}-{one}": (100 + sign * one) / 200 for one in levels for end, sign in (("lo", -1), ("hi", 1))}
    for name in run.manifest["forecasters"]:
        quantiles = _quantiles(run, name, [0.5, *ends.values()], channel)[rows]
        for k, suffix in enumerate(["", *ends]):
            columns[f"{name}{suffix}"] = quantiles[:, :, k].ravel()
    return pd.DataFrame(columns)


def fev_task(run: Run, folder: Path, levels: Sequence[float]) -> FevTask:
    """Write a dataset of fev, and give its task and the predictions; see `Run.to_fev`."""
    rows, origins, outcome = _outcomes(run, "close")
    candles, windows = run.candles(), run.config.windows
    times, close = milliseconds(candles.index), candles["close"].to_numpy(dtype=np.float64)
    now = np.searchsorted(times, origins)
    past = now[:, None] + np.arange(-windows.context, 0)
    length = interval_ms(run.config.candles.interval)
    opened = origins[:, None] + length * np.arange(-windows.context, windows.horizon, dtype=np.int64)
    table = pa.table(
        {
            "id": [str(np.datetime64(int(origin), "ms")) for origin in origins],
            "timestamp": list(opened.astype("datetime64[ms]")),
            "target": list(np.hstack([close[past], outcome])),
        }
    )
    file = folder / f"{run.config.name}.parquet"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            pq.write_table(table, temporary)
    except OSError as error:
        raise StoreError(f"{file}: cannot be written ({error.strerror}); choose another folder") from None
    keys = [str(level) for level in levels]
    predictions = {}
    for name in run.manifest["forecasters"]:
        quantiles = _quantiles(run, name, [0.5, *levels], "close")[rows]
        items = [dict(zip(["predictions", *keys], quantiles[k].T.tolist(), strict=True)) for k in range(len(quantiles))]
        predictions[name] = [items]
    task = {
        "dataset_path": str(file),
        "horizon": windows.horizon,
        "quantile_levels": list(levels),
        "eval_metric": "SQL",
    }
    return FevTask(task, predictions)


def _outcomes(run: StoredRun, channel: str) -> tuple[IntArray, IntArray, FloatArray]:
    """Rows and times of the origins with a known outcome, and what came after them, (M', H)."""
    require(channel, CHANNELS, "channel")
    table = run.origins()
    rows = np.flatnonzero(table["scored"].to_numpy()).astype(np.int64)
    if not len(rows):
        raise StoreError(f"{run.directory}: no origin has a known outcome, so there is nothing to compare with")
    origins, candles = milliseconds(table.index)[rows], run.candles()
    first = np.searchsorted(milliseconds(candles.index), origins)
    ahead = first[:, None] + np.arange(run.config.windows.horizon)
    return rows, origins, candles[channel].to_numpy(dtype=np.float64)[ahead]


def _quantiles(run: Run, name: str, levels: Sequence[float], channel: str) -> FloatArray:
    """Quantiles of all origins, (M, H, Q)."""
    table = run.forecasts(name).quantiles(levels, channel)
    return table.to_numpy(dtype=np.float64).reshape(-1, run.config.windows.horizon, len(levels))
