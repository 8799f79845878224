"""Numbers of the page that no table of a run holds: by hour of the day, over time, and the bands of equity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from btcbt.metrics.bands import equity_band
from btcbt.metrics.conditional import fluctuation
from btcbt.metrics.returns import equity_returns
from btcbt.records import FloatArray
from btcbt.report.figures import milliseconds
from btcbt.report.versus import opponent_of
from btcbt.storage.runs import Run

POINTS = 300
"""Points of a line over time."""


def losses_over_time(run: Run) -> dict[str, Any]:
    """CRPS of the last step by hour of the day, and the fluctuation of its difference to the opponent's.

    ``hours``: forecaster to 24 means, bps, by UTC hour of the origin. ``fluctuation``: by forecaster, times (ms UTC,
    the last origin of each window), standardised mean difference and critical value (`btcbt.metrics.conditional`). Both
    are empty for a run without losses by origin.
    """
    if not (run.directory / "losses.parquet").is_file():
        return {"hours": {}, "fluctuation": []}
    losses, horizon = run.losses(), run.config.windows.horizon
    columns = {name: f"{name}.crps_bps.h{horizon}" for name in run.manifest["forecasters"]}
    known = {name: losses[column] for name, column in columns.items() if column in losses.columns}
    hour = pd.DatetimeIndex(losses.index).hour
    hours = {name: [_finite(v) for v in loss.groupby(hour).mean().reindex(range(24))] for name, loss in known.items()}
    return {"hours": hours, "fluctuation": list(_fluctuation(run, known))}


def _fluctuation(run: Run, losses: Mapping[str, pd.Series[float]]) -> Iterator[Mapping[str, Any]]:
    opponent, windows = opponent_of(run), run.config.windows
    if opponent not in losses:
        return
    overlap = math.ceil(windows.horizon / windows.stride)
    for name, loss in losses.items():
        difference = (loss - losses[opponent]).dropna()
        found = fluctuation(difference.to_numpy(dtype=np.float64), overlap)
        if name == opponent or not len(found.path):
            continue
        at = spread(len(found.path))
        times = milliseconds(difference.index)[found.window - 1 :]
        yield {
            "forecaster": name,
            "time": times[at].tolist(),
            "value": np.round(found.path[at], 3).tolist(),
            "critical": found.critical_value,
            "p": found.p_value,
        }


def equity_bands(equity: pd.DataFrame, cash: float, names: Iterable[str], horizon: int) -> dict[str, Any]:
    """Bootstrap bands of some accounts: ``times`` (ms UTC) and by account its low and high."""
    at = spread(len(equity))
    bands: dict[str, Any] = {}
    for name in names:
        returns = equity_returns(equity[name].to_numpy(dtype=np.float64), cash)
        band = equity_band(returns, horizon, at)
        if np.all(np.isfinite(band)):
            bands[name] = np.round(band, 5).tolist()
    return {"times": milliseconds(equity.index)[at].tolist(), "of": bands}


def placebo_ranges(run: Run) -> list[Mapping[str, Any]]:
    """Sharpe ratio per candle of each account, beside those of its placebo runs."""
    found: list[Mapping[str, Any]] = []
    for name in run.manifest["strategies"]:
        keys = ("mean", "q95", "max", "p_value", "runs")
        numbers = {key: run.metrics.get(f"placebo.{name}.{key}", math.nan) for key in keys}
        numbers["real"] = run.metrics.get(f"strategy.{name}.sharpe_per_candle", math.nan)
        if all(map(math.isfinite, numbers.values())):
            found.append({"name": name, **numbers})
    return found


def spread(count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """At most `POINTS` rows of so many, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(np.int64))


def _finite(value: float) -> float | None:
    return round(float(value), 2) if math.isfinite(value) else None


def pit_shares(lower: FloatArray, upper: FloatArray, bins: int = 10) -> list[float]:
    """Histogram of the probability integral transform, 1 in each bin if it is uniform.

    The nonrandomised one of Czado, Gneiting and Held (2009), Biometrics 65: an outcome counts in the bins by how much
    of the range that its rank leaves open, `lower` to `upper`, lies in each, so that few paths make no steps of their
    own.

    Parameters
    ----------
    lower, upper : float64 (n,)
        Ends of the range, in [0, 1]; origins where either is NaN are left out.
    """
    known = np.isfinite(lower) & np.isfinite(upper)
    low, width = lower[known, None], (upper - lower)[known, None]
    below = np.clip((np.linspace(0.0, 1.0, bins + 1) - low) / width, 0.0, 1.0)
    return np.round(bins * np.diff(below, axis=1).mean(axis=0), 3).tolist() if len(low) else []
