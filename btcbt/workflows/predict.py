"""One forecast from the newest candles of a file, and its folder: a table, a JSON file and a picture.

It is the forecast that a walk-forward would make at that origin, with the same window, forecaster and seed: a sample
of paths from a fitted model, and nothing more.
"""

from __future__ import annotations

import csv
import io
import json
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from btcbt.candles import import_candles, read_candles, read_rows
from btcbt.candles.bundled import PREFIX
from btcbt.candles.importers import infer_interval
from btcbt.config import KINDS, ForecasterConfig, KronosConfig, WindowsConfig, load_config, time_text
from btcbt.errors import CandleError, ConfigError, ForecasterError, StoreError
from btcbt.files import write_whole
from btcbt.forecasters import create_forecaster
from btcbt.forecasters.asking import AnswerError, ask
from btcbt.messages import explain_invalid, first_problem
from btcbt.metrics.volatility import realised_variance
from btcbt.models.kronos.checkpoints.locate import fitted_context
from btcbt.randomness import MAX_HORIZON
from btcbt.records import (
    CHANNELS,
    CLOSE,
    IN_BPS,
    VOLUME,
    Candles,
    DataRange,
    Float32Array,
    FloatArray,
    Forecast,
    Window,
)
from btcbt.report.prediction import draw_prediction
from btcbt.walkforward.provenance import code_version, git_commit, package_versions
from btcbt.windows import contamination, make_windows

LEVELS = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
"""Quantiles that are written: the median, and the ends of the central 50, 80 and 95 %."""
TABLE, SUMMARY, PICTURE = "candles.csv", "forecast.json", "forecast.png"
DAY_MS = 86_400_000
DEFAULT_CONTEXT = 360

WHAT = (
    "Paths sampled from a fitted model given the candles up to the origin. Probabilities and quantiles are shares of "
    "those paths: what the model says, not how often it is right; 'btcbt run' measures that."
)
MEANINGS: Mapping[str, str] = {
    "clean": "every candle that the checkpoint declares to have looked at had closed by the origin",
    "selected-on": "the checkpoint was chosen on candles at or after the origin, or with scores on them in sight",
    "seen": "the checkpoint was fitted on candles at or after the origin, so this is not out of sample",
    "unknown": "the checkpoint does not declare all that it was trained on; it may have seen what it forecasts",
}


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the paths, with the 95 % interval of its sampling error (Wilson, 1927)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """A forecast and what it was made from.

    Attributes
    ----------
    window : Window
        The candles that it saw.
    paths : float32 (S, H, 6)
        Sampled candles.
    summary : mapping
        What ``forecast.json`` holds.
    folder : Path
        Where the files are.
    """

    window: Window
    paths: Float32Array
    summary: Mapping[str, Any]
    folder: Path


def kronos_config(**options: Any) -> KronosConfig:
    """Check the options of a forecaster.

    Raises
    ------
    ConfigError
        Names the first option that is out of range.
    """
    try:
        return KronosConfig(**options)
    except ValidationError as error:
        raise ConfigError(explain_invalid(error, "option")) from None


def named_forecaster(text: str, n_paths: int) -> ForecasterConfig:
    """The forecaster that a text names.

    Parameters
    ----------
    text : str
        ``EXPERIMENT.yaml:NAME``, with the parameters that it has there; a kind with its default parameters, say
        ``garch``; or a class of the user's own with its default parameters, ``module:Class`` or
        ``path/to/file.py:Class``.
    n_paths : int
        S, unless an experiment says so.

    Raises
    ------
    ConfigError
        If it is none of these, or its forecasts cannot be made for a single origin.
    """
    file, _, name = text.rpartition(":")
    if file.endswith((".yaml", ".yml")):
        known = load_config(file).forecasters
        if name not in known:
            raise ConfigError(f"forecaster '{text}': the forecasters of {file} are {', '.join(known) or 'none'}")
        config = known[name]
    else:
        key = "use" if ":" in text else "kind"
        tree = {key: text} if text in ("calibrated", "located") else {key: text, "n_paths": n_paths}
        try:
            config = TypeAdapter(ForecasterConfig).validate_python(tree)
        except ValidationError as error:
            problem = f"expected a kind ({', '.join(KINDS)}), module:Class, FILE.py:Class or EXPERIMENT.yaml:NAME"
            raise ConfigError(f"forecaster '{text}': {first_problem(error).text}; {problem}") from None
    if config.based_on is not None or config.schedule is not None:
        what = "is refitted" if config.schedule is not None else "is made from the earlier forecasts of another"
        raise ConfigError(f"forecaster '{text}' {what}, which takes a walk: run the experiment, or name another")
    return config


def predict(
    source: str | Path,
    *,
    interval: str | None = None,
    context: int | None = None,
    horizon: int = 48,
    seed: int = 0,
    forecaster: ForecasterConfig | None = None,
    output: str | Path | None = None,
) -> Prediction:
    """Forecast the candles after the newest of a file, and write the forecast.

    Parameters
    ----------
    source : str or Path
        Parquet file in the project's form, ``bundled:NAME``, or a file that ``btcbt data import`` reads (CSV, JSON,
        zipped CSV).
    interval : str, optional
        The interval of its candles; inferred if left out.
    context, horizon : int
        T and H, in candles. T is the longest that a checkpoint's recipe fitted, `DEFAULT_CONTEXT` where there is none.
    seed : int
        Keys the random numbers.
    forecaster : ForecasterConfig, optional
        One that makes forecasts of its own; kronos-nano with 100 paths if left out.
    output : str or Path, optional
        The folder to make; ``predictions/SYMBOL_INTERVAL_ORIGIN`` if left out. An earlier forecast there is replaced.

    Raises
    ------
    CandleError
        If the file cannot be read, holds fewer than T candles, or has a gap or a value too large inside the newest T.
    ConfigError
        If a parameter is out of range, or `output` holds something else.
    CheckpointError
        If the checkpoint is missing or broken.
    ForecasterError
        If the forecaster cannot be built, or what it returns is not a forecast.
    """
    config = forecaster or kronos_config(n_paths=100)
    if context is None:
        checkpoint = (config.starts_from or (None,))[0]
        context = (fitted_context(checkpoint) if checkpoint else None) or DEFAULT_CONTEXT
    _check_sizes(context, horizon, config)
    interval = interval or infer_interval(read_rows(source))
    history = read_history(source, interval)
    symbol = symbol_of(source, interval)
    _require_context(history, context)
    origin = int(history.open_time[-1]) + history.interval_ms
    folder = Path(output) if output else Path("predictions") / f"{symbol}_{interval}_{_stamp(origin)}"
    _require_ours(folder)

    windows_config = _windows_config(context, horizon, origin, history.interval_ms)
    model = create_forecaster(config, windows_config, seed, candles=history)
    windows = make_windows(history, windows_config, context=model.context).with_context(model.context)
    try:
        batch = ask(model, windows[:1])
    except CandleError as error:
        raise CandleError(f"candles {history.source}: {error}") from None
    except AnswerError as error:
        raise ForecasterError(f"forecaster '{getattr(config, 'use', config.kind)}' at {error}") from error.__cause__
    window, paths = windows[0], batch.paths[0]
    summary = {
        "what": WHAT,
        "symbol": symbol,
        "interval": interval,
        "origin": time_text(origin),
        **_describe(window, paths),
        "contamination": _contamination(origin, model.data_ranges()),
        "parameters": {"context": context, "horizon": horizon, "seed": seed, **config.model_dump(mode="json")},
        "forecaster": {**model.identity(), **batch.provenance},
        "candles": {
            "source": history.source,
            "sha256": history.sha256,
            "first_open_time": time_text(int(window.open_time[0])),
            "last_open_time": time_text(int(window.open_time[-1])),
        },
        "versions": {"btcbt": code_version(), "commit": git_commit(), **package_versions()},
    }
    _write(folder, window, paths, summary)
    return Prediction(window, paths, summary, folder)


def read_history(source: str | Path, interval: str) -> Candles:
    """Candles of a stored history or of a foreign file; nothing is repaired."""
    stored = str(source).startswith(PREFIX) or Path(source).suffix.lower() == ".parquet"
    return (read_candles if stored else import_candles)(source, interval)


def symbol_of(source: str | Path, interval: str) -> str:
    """Symbol that a file's name begins with: ``BTCUSDT`` of ``BTCUSDT_1h.parquet`` and ``BTCUSDT-1h-2025.csv``."""
    stem = str(source).removeprefix(PREFIX) if str(source).startswith(PREFIX) else Path(source).stem
    stem = re.sub(rf"[_-]{re.escape(interval)}(?![A-Za-z0-9]).*$", "", stem)
    return re.sub(r"[^A-Za-z0-9_.-]", "_", stem).strip("._-")[:64] or "candles"


def _check_sizes(context: int, horizon: int, config: ForecasterConfig) -> None:
    if context < 2:
        raise ConfigError(f"context {context}: a window has at least 2 candles; give more")
    if not 1 <= horizon <= MAX_HORIZON:
        raise ConfigError(f"horizon {horizon}: expected 1 to {MAX_HORIZON} candles; shorten it")
    try:
        config.check_size(horizon)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _require_context(history: Candles, context: int) -> None:
    """Refuse a history that does not end with T contiguous candles; say where it breaks off."""
    n = len(history)
    if n < context:
        raise CandleError(
            f"candles {history.source}: {n:,} candles, a context of {context:,} needs as many; "
            f"give more history or use --context {n} or smaller"
        )
    times = history.open_time[n - context :]
    jumps = np.flatnonzero(np.diff(times) != history.interval_ms)
    if len(jumps):
        before = int(jumps[-1])
        missing = int(times[before + 1] - times[before]) // history.interval_ms - 1
        left = context - before - 1
        remedy = f"use --context {left} or smaller, or fill it" if left >= 2 else "fill it"
        raise CandleError(
            f"candles {history.source}: {missing:,} missing from {time_text(int(times[before]) + history.interval_ms)} "
            f"on, inside the newest {context:,}; {left:,} contiguous ones follow: {remedy}"
        )


def _windows_config(context: int, horizon: int, origin: int, interval_ms: int) -> WindowsConfig:
    """The walk-forward of the one origin."""
    start, end = (np.datetime64(t, "ms").item() for t in (origin, origin + interval_ms))
    try:
        return WindowsConfig(context=context, horizon=horizon, start=start, end=end)
    except ValidationError as error:
        raise ConfigError(f"context {context}, horizon {horizon}: {first_problem(error).text}") from None


def _describe(window: Window, paths: Float32Array) -> dict[str, Any]:
    """What is said of the paths."""
    forecast = Forecast(window, paths)
    times = window.future_open_time(paths.shape[1])
    return {
        "last_close": window.last_close,
        "probability_of_rise": _as_json(share(forecast.returns() > 0)),
        "probability_of_higher_volatility": higher_volatility(window, paths),
        "open_times": [time_text(int(t)) for t in times],
        "quantiles": {
            "levels": list(LEVELS),
            **{
                CHANNELS[channel]: quantiles(paths[:, :, channel]).T.tolist()  # (H, levels)
                for channel in (CLOSE, VOLUME)
            },
        },
    }


def quantiles(values: Float32Array) -> FloatArray:
    """Quantiles (levels, H) of a channel's paths (S, H)."""
    return np.asarray(np.quantile(np.asarray(values, dtype=np.float64), LEVELS, axis=0))


def share(hits: NDArray[np.bool_]) -> Share:
    """Share of the paths (S,) that are hits; a Wilson score interval, since few paths make a rough share."""
    n, z = len(hits), 1.959964
    p = float(np.mean(hits))
    centre, spread = p + z * z / (2 * n), z * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    scale = 1 + z * z / n
    return Share(p, max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


def higher_volatility(window: Window, paths: Float32Array) -> dict[str, Any] | None:
    """Share of paths more volatile than the last day, by the root mean squared log return of a candle.

    The day is the 24 h before the origin (one candle, for candles of a day); None if the window is shorter. The paths
    count over their whole horizon. A path with a price that is not positive counts as more volatile; if most are such,
    there is no median.
    """
    day = max(1, DAY_MS // window.interval_ms)
    if len(window.values) < day + 1:
        return None
    closes = window.values[-day - 1 :, CLOSE]
    past = float(realised_variance(closes[1:], closes[0])[-1]) / day
    ahead = realised_variance(paths[:, :, CLOSE], window.last_close)[:, -1] / paths.shape[1]
    ahead = np.where(np.isnan(ahead), np.inf, ahead)
    middle = float(np.median(ahead))
    return {
        **_as_json(share(ahead > past)),
        "last_day_candles": day,
        "last_day_bps_per_candle": IN_BPS * past**0.5,
        "median_bps_per_candle": IN_BPS * middle**0.5 if np.isfinite(middle) else None,
    }


def _as_json(part: Share) -> dict[str, float]:
    return {"value": part.value, "low95": part.low, "high95": part.high}


def _contamination(origin: int, ranges: Sequence[DataRange] | None) -> dict[str, Any]:
    label = str(contamination(np.array([origin]), ranges)[0])
    declared = None
    if ranges is not None:
        declared = [
            {"use": r.use}
            if r.use == "unknown"
            else {"use": r.use, "start": time_text(r.start), "end": time_text(r.end)}
            for r in ranges
        ]
    return {"label": label, "meaning": MEANINGS[label], "declared": declared}


def _stamp(origin: int) -> str:
    return f"{np.datetime64(origin, 'ms').item():%Y%m%dT%H%MZ}"


def _require_ours(folder: Path) -> None:
    """Refuse to replace anything but an earlier forecast."""
    try:
        if not folder.exists():
            return
        if not folder.is_dir() or {path.name for path in folder.iterdir()} - {TABLE, SUMMARY, PICTURE}:
            raise ConfigError(f"output {folder}: exists and is not an earlier forecast; name another folder")
    except OSError as error:
        raise ConfigError(f"output {folder}: cannot be read ({error.strerror}); name another folder") from None


def _write(folder: Path, window: Window, paths: Float32Array, summary: Mapping[str, Any]) -> None:
    """Write all files into a new folder that then takes its place, so that what is there is whole."""
    target = folder.absolute()
    mark = secrets.token_hex(4)
    fresh, old = (target.with_name(f".{target.name}.{mark}.{end}") for end in ("tmp", "old"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
        try:
            write_whole(fresh / TABLE, table(window, paths).encode())
            write_whole(fresh / SUMMARY, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
            write_whole(fresh / PICTURE, draw_prediction(window, paths, summary))
            if target.exists():
                target.rename(old)
            fresh.rename(target)
        finally:
            for left in (fresh, old):
                shutil.rmtree(left, ignore_errors=True)
    except OSError as error:
        raise StoreError(f"output {folder}: cannot be written ({error.strerror}); name another folder") from None


def table(window: Window, paths: Float32Array) -> str:
    """Write the median candles and the quantiles of close and volume as CSV, a row for each candle to come."""
    names = ["open_time", *CHANNELS]
    names += [f"{CHANNELS[c]}_q{100 * level:g}" for c in (CLOSE, VOLUME) for level in LEVELS]
    medians = np.median(np.asarray(paths, dtype=np.float64), axis=0)  # (H, 6)
    columns = [medians, quantiles(paths[:, :, CLOSE]).T, quantiles(paths[:, :, VOLUME]).T]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for time, row in zip(window.future_open_time(paths.shape[1]), np.hstack(columns), strict=True):
        writer.writerow([time_text(int(time)), *(f"{value:.10g}" for value in row)])
    return text.getvalue()
