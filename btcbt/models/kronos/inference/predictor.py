"""The drop-in predictor: upstream's signature and result, and `predict_paths`, which averages nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from btcbt.errors import CandleError, ConfigError
from btcbt.models.kronos.inference.calendar import stamps
from btcbt.models.kronos.inference.devices import resolve_device
from btcbt.models.kronos.inference.generate import PathGenerator
from btcbt.models.kronos.inference.location import check_location, move_prices, window_move
from btcbt.models.kronos.inference.sampling import Draw, Filter, KeyedDraw, MultinomialDraw, on_device
from btcbt.models.kronos.inference.scaling import TOO_LARGE, Scaling, find_extreme
from btcbt.models.kronos.network.model import Kronos
from btcbt.models.kronos.network.tokenizer import KronosTokenizer
from btcbt.randomness import uniforms
from btcbt.records import CHANNELS, CLOSE, Float32Array, IntArray

_PRICES = list(CHANNELS[:4])
Times = pd.Series | pd.DatetimeIndex


class KronosPredictor:
    """Forecasts candles held in data frames.

    Parameters
    ----------
    model : Kronos
    tokenizer : KronosTokenizer
    device : str, optional
        ``cpu``, ``cuda``, ``cuda:1``, ``mps``; the best one by default.
    max_context : int
        Tokens that the model attends to.
    clip : float
        Bound on scaled values.
    dtype : torch.dtype
        Of the model; the tokenizer stays float32.
    location : str
        Where the paths lie: ``as_decoded``, as upstream's; ``reconstruction`` or ``driftless``
        (`btcbt.models.kronos.inference.location`).

    Raises
    ------
    ConfigError
        If the device is not available, or the location is unknown or needs the outcomes of earlier forecasts.
    """

    def __init__(
        self,
        model: Kronos,
        tokenizer: KronosTokenizer,
        device: str | torch.device | None = None,
        max_context: int = 512,
        clip: float = 5,
        dtype: torch.dtype = torch.float32,
        location: str = "as_decoded",
    ) -> None:
        check_location(location)
        self.clip, self.location = float(clip), location
        self.device = resolve_device(device)
        self.generator = PathGenerator(
            tokenizer.eval(), model.eval(), max_context=max_context, device=self.device, dtype=dtype
        )

    def predict(
        self,
        df: pd.DataFrame,
        x_timestamp: Times,
        y_timestamp: Times,
        pred_len: int,
        T: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.9,
        sample_count: int = 1,
        verbose: bool = True,
        use_kv_cache: bool = True,
    ) -> pd.DataFrame:
        """Forecast one series; see `predict_batch`."""
        series = ([df], [x_timestamp], [y_timestamp])
        return self.predict_batch(*series, pred_len, T, top_k, top_p, sample_count, verbose, use_kv_cache)[0]

    def predict_batch(
        self,
        df_list: Sequence[pd.DataFrame],
        x_timestamp_list: Sequence[Times],
        y_timestamp_list: Sequence[Times],
        pred_len: int,
        T: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.9,
        sample_count: int = 1,
        verbose: bool = True,  # noqa: ARG002 - kept for drop-in calls; there is no step-by-step bar
        use_kv_cache: bool = True,  # noqa: ARG002 - kept for drop-in calls; keys and values are always cached
    ) -> list[pd.DataFrame]:
        """Forecast series of equal length, each as the mean of its sampled paths.

        Parameters
        ----------
        df_list : sequence of DataFrame
            Columns open, high, low, close, and optionally volume and amount, T rows each.
        x_timestamp_list, y_timestamp_list : sequence of Series or DatetimeIndex
            Times of the rows, and of the `pred_len` candles after them.
        pred_len : int
            H.
        T : float
            Temperature.
        top_k, top_p : int, float
            Filters; see `btcbt.models.kronos.inference.sampling`.
        sample_count : int
            Paths to average, drawn from torch's global generator as upstream does.
        verbose, use_kv_cache : bool
            Accepted for compatibility.

        Returns
        -------
        list of DataFrame
            Columns open, high, low, close, volume, amount, indexed by the y timestamps.

        Raises
        ------
        CandleError
            If a column is missing, a value is NaN or too large, or lengths differ.
        ConfigError
            If a sampling parameter is out of range.
        """
        keep = Filter(T, top_k, top_p)
        paths = self._paths(
            df_list, x_timestamp_list, y_timestamp_list, pred_len, sample_count, keep, MultinomialDraw()
        )
        # Upstream averages in scaled units; scaling is affine, so the mean commutes with its inverse.
        means = paths.mean(axis=1)
        return [
            pd.DataFrame(mean, columns=list(CHANNELS), index=pd.Index(times))
            for mean, times in zip(means, y_timestamp_list, strict=True)
        ]

    def predict_paths(
        self,
        df_list: Sequence[pd.DataFrame],
        x_timestamp_list: Sequence[Times],
        y_timestamp_list: Sequence[Times],
        pred_len: int,
        T: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.9,
        sample_count: int = 1,
        seed: int = 0,
    ) -> Float32Array:
        """Sampled paths (B, S, H, 6) in the units of the frames; nothing is averaged.

        Arguments as in `predict_batch`. The random numbers are keyed by (`seed`, time of the first predicted candle,
        path, step), so a series' paths do not depend on the others of the call.
        """
        origins = np.array([_ms(times)[0] for times in y_timestamp_list], dtype=np.int64)
        draw = KeyedDraw(on_device(uniforms(seed, origins, sample_count, pred_len), self.device))
        keep = Filter(T, top_k, top_p)
        return self._paths(df_list, x_timestamp_list, y_timestamp_list, pred_len, sample_count, keep, draw)

    def predict_quantiles(
        self,
        df: pd.DataFrame,
        x_timestamp: Times,
        y_timestamp: Times,
        pred_len: int,
        T: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        sample_count: int = 100,
        seed: int = 0,
        quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
    ) -> pd.DataFrame:
        """Quantiles of each channel over the sampled paths of one series, step by step.

        Arguments as in `predict_paths`. `top_p` is 1 by default, since dropping unlikely tokens narrows every quantile.

        Returns
        -------
        DataFrame
            `pred_len` rows, indexed by the y timestamps; columns (channel, quantile).

        Raises
        ------
        ConfigError
            If a quantile is outside [0, 1], beside the errors of `predict_batch`.
        """
        levels = np.asarray(quantiles, dtype=float)
        if levels.ndim != 1 or not len(levels) or not ((levels >= 0) & (levels <= 1)).all():
            raise ConfigError(f"quantiles are {list(quantiles)}; expected one or more numbers from 0 to 1")
        series = ([df], [x_timestamp], [y_timestamp])
        paths = self.predict_paths(*series, pred_len, T, top_k, top_p, sample_count, seed)[0]
        values = np.quantile(paths, levels, axis=0)  # (quantiles, H, 6)
        columns = pd.MultiIndex.from_product((CHANNELS, levels), names=("channel", "quantile"))
        return pd.DataFrame(
            values.transpose(1, 2, 0).reshape(pred_len, -1), index=pd.Index(y_timestamp), columns=columns
        )

    def _paths(
        self,
        frames: Sequence[pd.DataFrame],
        x_times: Sequence[Times],
        y_times: Sequence[Times],
        horizon: int,
        n_paths: int,
        keep: Filter,
        draw: Draw,
    ) -> Float32Array:
        if n_paths < 1:
            raise ConfigError(f"sample_count is {n_paths}; expected 1 or more paths")
        if not len(frames) == len(x_times) == len(y_times):
            raise CandleError(
                f"{len(frames)} frames, {len(x_times)} x and {len(y_times)} y timestamps; expected equally many of each"
            )
        contexts = [_values(frame, f"series {i}") for i, frame in enumerate(frames)]
        lengths = sorted({len(c) for c in contexts})
        if len(lengths) != 1:
            raise CandleError(f"series have lengths {lengths}; a batch takes series of one length")
        for i, (x, y) in enumerate(zip(x_times, y_times, strict=True)):
            if len(x) != lengths[0] or len(y) != horizon:
                raise CandleError(
                    f"series {i}: {len(x)} x and {len(y)} y timestamps; expected {lengths[0]} rows and {horizon} steps"
                )
        context = np.stack(contexts)
        # Calendar features use local wall-clock time, as upstream's do; keys and origins are UTC.
        times = np.stack([np.concatenate((_wall_ms(x), _wall_ms(y))) for x, y in zip(x_times, y_times, strict=True)])
        with np.errstate(over="ignore", invalid="ignore"):  # overflows are reported below
            scaling = Scaling.fit(context)
        extreme = find_extreme(context, scaling)
        if extreme is not None:
            value = f"its {CHANNELS[extreme.channel]} of {context[extreme]:g}"
            raise CandleError(f"series {extreme.window}: row {extreme.row}: {value} is {TOO_LARGE}")
        known = torch.from_numpy(scaling.apply(context, self.clip))
        scaled = self.generator.generate(
            known,
            torch.from_numpy(stamps(times)),
            horizon=horizon,
            n_paths=n_paths,
            draw=draw,
            keep=keep,
        )
        paths = scaling.invert(scaled[:, 0].cpu().numpy())
        if self.location == "as_decoded":
            return paths
        decoded = scaling.invert(self.generator.reconstruct(known, horizon=horizon)[:, -1:].cpu().numpy())
        return move_prices(paths, window_move(self.location, paths, context[:, -1, CLOSE], decoded[:, -1, CLOSE]))


def _values(frame: pd.DataFrame, name: str) -> Float32Array:
    """Channels of a frame, float32 (T, 6); missing volume is 0, missing amount is volume times the mean price."""
    missing = [column for column in _PRICES if column not in frame.columns]
    if missing:
        raise CandleError(f"{name}: column '{missing[0]}' is missing; expected {', '.join(_PRICES)}")
    table = frame.reindex(columns=list(CHANNELS))
    if "volume" not in frame.columns:
        table[["volume", "amount"]] = 0.0
    elif "amount" not in frame.columns:
        table["amount"] = table["volume"] * table[_PRICES].mean(axis=1)
    with np.errstate(over="ignore"):  # overflows become infinite, which is reported below
        values = table.to_numpy(dtype=np.float32)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise CandleError(
            f"{name}: row {row} has a NaN or infinite {CHANNELS[column]} in float32; drop or fill such rows first"
        )
    return values


def _ms(times: Times) -> IntArray:
    """Milliseconds since the epoch; times without a zone are UTC."""
    index = pd.DatetimeIndex(times)
    return _wall_ms(index if index.tz is None else index.tz_convert("UTC"))


def _wall_ms(times: Times) -> IntArray:
    """Milliseconds since the epoch, of local wall-clock time."""
    return pd.DatetimeIndex(times).tz_localize(None).as_unit("ms").asi8.astype(np.int64)
