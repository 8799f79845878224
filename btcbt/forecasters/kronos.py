"""Kronos as a Forecaster: windows to sampled candles in quote and base units."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from btcbt.config import AnchoredKronosConfig, KronosConfig, Location, WindowsConfig, time_text
from btcbt.errors import CandleError, CheckpointError, ConfigError
from btcbt.forecasters.base import Forecaster, origins_of
from btcbt.models.kronos.checkpoints.files import weights_digest
from btcbt.models.kronos.checkpoints.locate import find_location_prior, find_model, find_tokenizer, pair_ranges
from btcbt.models.kronos.checkpoints.location_prior import LocationPrior
from btcbt.models.kronos.inference.calendar import stamps
from btcbt.models.kronos.inference.devices import resolve_device
from btcbt.models.kronos.inference.generate import PathGenerator
from btcbt.models.kronos.inference.location import (
    check_location,
    kind_of_paths,
    move_prices,
    window_move,
)
from btcbt.models.kronos.inference.sampling import Filter, KeyedDraw, on_device
from btcbt.models.kronos.inference.scaling import TOO_LARGE, Scaling, find_extreme
from btcbt.models.kronos.network.model import CALENDAR, Kronos
from btcbt.models.kronos.network.tokenizer import KronosTokenizer
from btcbt.models.kronos.shapes import MAX_CONTEXT, MODELS
from btcbt.randomness import systematic, uniforms
from btcbt.records import (
    CHANNELS,
    CLOSE,
    VOLUME,
    DataRange,
    Float32Array,
    FloatArray,
    ForecastBatch,
    IntArray,
    Refit,
    Window,
)

NUMERICS = 2
"""Increased whenever the same weights, windows and seed give different paths than before."""

_CPU_ORIGINS = 16  # larger batches do not fit the caches of the processor
_DEVICE_SHARE = 0.5


class Checkpoint(NamedTuple):
    """A model with its tokenizer, the data ranges that both have used (None if unknown), and its location prior."""

    model: Kronos
    tokenizer: KronosTokenizer
    ranges: Sequence[DataRange] | None
    location: LocationPrior | None = None


def load_checkpoint(checkpoint: str, tokenizer: str | None = None) -> Checkpoint:
    """Load a pair of networks.

    Parameters
    ----------
    checkpoint : str
        ``kronos-nano``, a folder with ``model/`` and ``tokenizer/``, a folder with a model (and maybe ``tokenizer/``),
        or the hub id of such a repository.
    tokenizer : str, optional
        Location of the tokenizer, alone or in a pair, if it is neither beside the model nor implied by the model's
        name.

    Raises
    ------
    CheckpointError
        If something is missing or damaged, or the two do not match.
    """
    pair = (
        Kronos.from_pretrained(find_model(checkpoint)),
        KronosTokenizer.from_pretrained(find_tokenizer(tokenizer or checkpoint)),
    )
    bits = [(part.config.s1_bits, part.config.s2_bits) for part in pair]
    if bits[0] != bits[1]:
        raise CheckpointError(
            f"{checkpoint}: the model has {bits[0][0]} + {bits[0][1]} bits, the tokenizer {bits[1][0]} + {bits[1][1]}; "
            "give the tokenizer that the model was trained with"
        )
    # Another tokenizer has another error.
    location = find_location_prior(checkpoint) if tokenizer is None else None
    return Checkpoint(*pair, pair_ranges(checkpoint, tokenizer), location)


def pair_digest(checkpoint: Checkpoint) -> str:
    """Digest of both networks of a pair (64 hex digits)."""
    return _both(weights_digest(checkpoint.model), weights_digest(checkpoint.tokenizer))


def _both(model: str, tokenizer: str) -> str:
    return hashlib.sha256((model + tokenizer).encode()).hexdigest()


class KronosForecaster(Forecaster):
    """Samples candles with a Kronos checkpoint; each window is scaled by its own mean and deviation.

    Parameters
    ----------
    checkpoint : Checkpoint
    keep : Filter
        Temperature, top-k and nucleus.
    clip : float
        Bound on the absolute scaled values.
    max_context : int
        Tokens that the model attends to.
    device : torch.device
    dtype : torch.dtype
        Of the model; the tokenizer stays float32.
    context, horizon, n_paths, seed
        As in `Forecaster`.
    sampling : str
        ``independent`` or ``systematic`` uniform numbers across the paths of an origin (`btcbt.randomness`).
    location : Location
        Where the paths lie (`btcbt.models.kronos.inference.location`).
    batch_size : int, optional
        Chosen from the device's free memory if left out.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        keep: Filter,
        clip: float,
        max_context: int,
        device: torch.device,
        dtype: torch.dtype,
        context: int,
        horizon: int,
        n_paths: int,
        seed: int,
        sampling: str = "independent",
        location: Location = "as_decoded",
        batch_size: int | None = None,
    ) -> None:
        super().__init__(context=context, horizon=horizon, n_paths=n_paths, seed=seed)
        check_location(location)
        self.keep, self.clip, self.sampling, self.location = keep, clip, sampling, location
        self.paths_are = kind_of_paths(location, "dependent" if sampling == "systematic" else "independent")
        self.checkpoint, self.device, self.dtype, self.max_context = checkpoint, device, dtype, max_context
        self.location_prior = checkpoint.location
        self.single_threaded = device.type == "cpu"  # two processes of one thread beat one of two
        self._batch_size = batch_size
        self._digests = {
            "model": weights_digest(checkpoint.model),
            "tokenizer": weights_digest(checkpoint.tokenizer),
        }
        self.generator = PathGenerator(
            checkpoint.tokenizer, checkpoint.model, max_context=max_context, device=device, dtype=dtype
        )

    @classmethod
    def from_config(
        cls, config: KronosConfig, windows: WindowsConfig, seed: int, base: Forecaster | None = None
    ) -> Self:
        """Build from a section of an experiment; see `Forecaster.from_config`.

        Raises
        ------
        ConfigError
            If the device or its dtype is not available, or the horizon is too long.
        CheckpointError
            If the checkpoint is missing, damaged or inconsistent.
        """
        checkpoint = load_checkpoint(config.checkpoint, config.tokenizer)
        device = resolve_device(config.device)
        max_context = config.max_context or _trained_context(checkpoint.model)
        cls._check(config, windows, max_context)
        return cls(
            checkpoint,
            keep=Filter(config.temperature, config.top_k, config.top_p),
            clip=config.clip,
            max_context=max_context,
            device=device,
            dtype=resolve_dtype(config.dtype, device),
            context=windows.context,
            horizon=windows.horizon,
            n_paths=config.n_paths,
            seed=seed,
            sampling=config.sampling,
            location=config.location,
            batch_size=None if config.batch_size == "auto" else config.batch_size,
            **cls._extra(config),
        )

    @classmethod
    def from_refit(cls, config: KronosConfig, windows: WindowsConfig, seed: int, refit: Refit) -> Self:
        """Build with the weights of a refit.

        Raises
        ------
        CheckpointError
            If their digest differs from that of the refit.
        """
        part = config.model_copy(update={"checkpoint": refit.folder, "tokenizer": None, "refit": None})
        forecaster = cls.from_config(part, windows, seed)
        if forecaster.weights != refit.weights:
            raise CheckpointError(
                f"{refit.folder}: its weights differ from those that were fitted; delete it, run again"
            )
        return forecaster

    @property
    def calendar(self) -> tuple[str, ...]:
        """Calendar embeddings in use; one that is zero was never trained, and stays untrained in a refit."""
        tables = self.checkpoint.model.time_emb.tables()
        return tuple(name for (name, _), table in zip(CALENDAR, tables, strict=True) if bool(table.any()))

    @classmethod
    def _extra(cls, config: KronosConfig) -> dict[str, Any]:
        """Further constructor arguments of a subclass."""
        return {}

    @classmethod
    def _check(cls, config: KronosConfig, windows: WindowsConfig, max_context: int) -> None:
        """Check the lengths before weights are moved to the device."""
        if windows.horizon >= max_context:
            raise ConfigError(f"windows.horizon {windows.horizon} does not fit max_context {max_context}; shorten it")
        if config.overflow == "refuse" and windows.context + windows.horizon - 1 > max_context:
            raise ConfigError(
                f"context {windows.context} + horizon {windows.horizon} - 1 exceeds max_context {max_context} and "
                f"'overflow' is 'refuse'; use a context of at most {max_context - windows.horizon + 1}"
            )

    def forecast(self, windows: Sequence[Window]) -> ForecastBatch:
        """Sample the H candles after each window; see `Forecaster.forecast`."""
        origins = origins_of(windows)
        context, scaling = _scale(windows, len(windows[0].values))
        times = np.stack([np.concatenate((w.open_time, w.future_open_time(self.horizon))) for w in windows])
        scaled = self.generator.generate(
            torch.from_numpy(scaling.apply(context, self.clip)),
            torch.from_numpy(stamps(times)),
            horizon=self.horizon,
            n_paths=self.n_paths,
            draw=self._draw(origins),
            keep=self.keep,
        )
        paths = self._locate(scaling.invert(scaled.cpu().numpy()), context, scaling, np.array([context.shape[1]]))
        return ForecastBatch(origins, paths[:, 0], self._provenance())

    def reconstruct(self, windows: Sequence[Window]) -> FloatArray:
        """The last close of each window, encoded and decoded with the window, (B,)."""
        context, scaling = _scale(windows, len(windows[0].values))
        return self._decoded_closes(context, scaling, np.array([context.shape[1]]))[:, 0]

    def _locate(self, paths: Float32Array, context: Float32Array, scaling: Scaling, ends: IntArray) -> Float32Array:
        """Bound paths (G, J, S, H, 6) and move them to their location.

        Parameters
        ----------
        paths : float32 (G, J, S, H, 6)
            In quote units, as decoded.
        context : float32 (G, T, 6)
        scaling : Scaling
            Of the context.
        ends : int64 (J,)
            Number of candles of the context that origin j sees.
        """
        last = context[:, ends - 1]
        bounded = _bounded(paths, last)
        if self.location == "as_decoded":
            return bounded
        decoded = self._decoded_closes(context, scaling, ends) if self.location == "reconstruction" else None
        return move_prices(bounded, window_move(self.location, bounded, last[..., CLOSE], decoded))

    def _decoded_closes(self, context: Float32Array, scaling: Scaling, ends: IntArray) -> FloatArray:
        """Closes (G, J) of a context (G, T, 6) that is encoded and decoded, each the last one of its origin."""
        scaled = torch.from_numpy(scaling.apply(context, self.clip))
        decoded = self.generator.reconstruct(scaled, horizon=self.horizon)
        candles = scaling.invert(decoded[:, ends - 1 - context.shape[1]].cpu().numpy())
        return candles[..., CLOSE].astype(np.float64)

    def identity(self) -> Mapping[str, object]:
        """Digests of the weights, and all parameters of the sampling.

        As decoded, the location is not named: its forecasts are those that were stored before there were others.
        """
        located = {} if self.location == "as_decoded" else {"location": self.location}
        return {
            "kind": "kronos",
            "numerics": NUMERICS,
            "context": self.context,
            "horizon": self.horizon,
            "n_paths": self.n_paths,
            "seed": self.seed,
            "model_sha256": self._digests["model"],
            "tokenizer_sha256": self._digests["tokenizer"],
            "temperature": self.keep.temperature,
            "top_k": self.keep.top_k,
            "top_p": self.keep.top_p,
            "clip": self.clip,
            "max_context": self.max_context,
            "dtype": str(self.dtype).removeprefix("torch."),
            "sampling": self.sampling,
            **located,
        }

    @property
    def weights(self) -> str:
        """Digest of both networks (64 hex digits)."""
        return _both(self._digests["model"], self._digests["tokenizer"])

    @property
    def batch_size(self) -> int:
        """Origins per call; by default as many as fit into half of the device's free memory."""
        if self._batch_size is not None:
            return self._batch_size
        if self.device.type != "cuda":
            return _CPU_ORIGINS
        free, _ = torch.cuda.mem_get_info(self.device)
        return max(1, int(_DEVICE_SHARE * free // self._bytes_per_origin()))

    def data_ranges(self) -> Sequence[DataRange] | None:
        """Data ranges that the checkpoint declares; None if it declares none."""
        return self.checkpoint.ranges

    def _draw(self, origins: IntArray) -> KeyedDraw:
        """The keyed draw of tokens for groups of origins, (G,) or (G, J)."""
        spread = self.sampling == "systematic"
        numbers = (systematic if spread else uniforms)(self.seed, origins.ravel(), self.n_paths, self.horizon)
        rows = on_device(numbers.reshape(len(origins), -1, self.horizon, 2), self.device)
        return KeyedDraw(rows, self.generator.price_orders if spread else None)

    def _bytes_per_origin(self) -> int:
        """Caches and scores of one origin at their largest, in bytes."""
        shape = self.checkpoint.model.config
        size = torch.finfo(self.dtype).bits // 8
        tokens = self.context + self.n_paths * self.horizon
        caches = 2 * (shape.n_layers + 1) * tokens * shape.d_model * size
        scores = 4 * shape.n_heads * self.n_paths * (self.context + self.horizon) * size
        logits = 4 * self.n_paths * 2 ** max(shape.s1_bits, shape.s2_bits) * 4
        return caches + scores + logits + 16 * self.context * shape.ff_dim

    def _provenance(self) -> dict[str, str]:
        return {
            "forecaster": "kronos",
            "model_sha256": self._digests["model"],
            "tokenizer_sha256": self._digests["tokenizer"],
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
        }


class AnchoredKronos(KronosForecaster):
    """Kronos with one scaling and one prefill for all origins of a block.

    Origin j of a block (j = 0 at the block's first origin) sees context + j candles, scaled on the first `context` of
    them. There is no look-ahead, but the forecast differs from that of `KronosForecaster`, which scales each window
    by itself.

    Parameters
    ----------
    block : int
        Candles of a block; blocks start at multiples of `block` intervals since the epoch.
    context : int
        Candles on which the scaling is fitted. Windows have block - 1 more.
    others
        As in `KronosForecaster`.
    """

    def __init__(self, checkpoint: Checkpoint, *, block: int, context: int, **options: Any) -> None:
        super().__init__(checkpoint, context=context + block - 1, **options)
        self.block, self.scaled_on = block, context

    @classmethod
    def _extra(cls, config: KronosConfig) -> dict[str, Any]:
        assert isinstance(config, AnchoredKronosConfig)  # noqa: S101 - the registry pairs them
        return {"block": config.block}

    @classmethod
    def _check(cls, config: KronosConfig, windows: WindowsConfig, max_context: int) -> None:
        assert isinstance(config, AnchoredKronosConfig)  # noqa: S101 - the registry pairs them
        needed = windows.context + config.block - 1 + windows.horizon
        if needed > max_context:
            raise ConfigError(
                f"context {windows.context} + block {config.block} - 1 + horizon {windows.horizon} is {needed} tokens, "
                f"max_context is {max_context}; shorten the context, the block or the horizon"
            )

    def forecast(self, windows: Sequence[Window]) -> ForecastBatch:
        """Sample the H candles after each window; windows of one block share its scaling and prefill."""
        origins = origins_of(windows)
        interval = windows[0].interval_ms if len(windows) else 1
        blocks, steps = origins // (self.block * interval), origins // interval % self.block
        paths = np.empty((len(windows), self.n_paths, self.horizon, 6), dtype=np.float32)
        # Blocks with the same requested steps are batched.
        alike: dict[tuple[int, ...], list[IntArray]] = {}
        for block in np.unique(blocks):
            rows = np.flatnonzero(blocks == block)
            rows = rows[np.argsort(steps[rows], kind="stable")]
            alike.setdefault(tuple(int(step) for step in steps[rows]), []).append(rows)
        for asked, groups in alike.items():
            rows = np.stack(groups)
            paths[rows] = self._forecast_blocks([windows[row] for row in rows[:, -1]], asked, origins[rows])
        return ForecastBatch(origins, paths, self._provenance() | {"forecaster": "kronos_anchored"})

    def _forecast_blocks(self, newest: Sequence[Window], steps: Sequence[int], origins: IntArray) -> Float32Array:
        """Paths (G, J, S, H, 6) of G blocks at J steps each, from the window of the newest origin of each block."""
        length = self.scaled_on + steps[-1]
        context, scaling = _scale(newest, length, self.scaled_on)
        times = np.stack([np.concatenate((w.open_time[-length:], w.future_open_time(self.horizon))) for w in newest])
        scaled = self.generator.generate(
            torch.from_numpy(scaling.apply(context, self.clip)),
            torch.from_numpy(stamps(times)),
            horizon=self.horizon,
            n_paths=self.n_paths,
            draw=self._draw(origins),
            keep=self.keep,
            ends=[self.scaled_on + step for step in steps],
        )
        # The last close of an origin is that of its own last candle, not of the last one of the block.
        ends = np.array([self.scaled_on + step for step in steps])
        return self._locate(scaling.invert(scaled.cpu().numpy()), context, scaling, ends)

    def reconstruct(self, windows: Sequence[Window]) -> FloatArray:
        """The last closes, each encoded and decoded with the context of its own origin, (B,)."""
        closes = np.empty(len(windows))
        steps = np.array([window.origin // window.interval_ms % self.block for window in windows])
        for step in np.unique(steps).tolist():
            rows = np.flatnonzero(steps == step)
            length = self.scaled_on + step
            context, scaling = _scale([windows[row] for row in rows.tolist()], length, self.scaled_on)
            closes[rows] = self._decoded_closes(context, scaling, np.array([length]))[:, 0]
        return closes

    def identity(self) -> Mapping[str, object]:
        """As of `KronosForecaster`, and the block."""
        return {**super().identity(), "kind": "kronos_anchored", "block": self.block, "scaled_on": self.scaled_on}

    @property
    def batch_size(self) -> int:
        """A multiple of the block length, so that prefills are shared."""
        return max(1, super().batch_size * 4 // self.block) * self.block


def _scale(windows: Sequence[Window], length: int, scaled_on: int | None = None) -> tuple[Float32Array, Scaling]:
    """The newest candles (B, length, 6) of windows in float32, and the scaling fitted on the first of these.

    Raises
    ------
    CandleError
        If a value is too large for float32, or its square is.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # overflow is reported below
        context = np.stack([window.values[-length:] for window in windows]).astype(np.float32)
        scaling = Scaling.fit(context[:, :scaled_on])
    extreme = find_extreme(context, scaling)
    if extreme is not None:
        window, row = windows[extreme.window], extreme.row - length
        value = f"its {CHANNELS[extreme.channel]} of {window.values[row, extreme.channel]:g}"
        raise CandleError(f"candle at {time_text(int(window.open_time[row]))}: {value} is {TOO_LARGE}")
    return context, scaling


def _bounded(paths: Float32Array, last: Float32Array) -> Float32Array:
    """Bound sampled prices (..., S, H, 6) below by a millionth of the last close (..., 6), and volumes by 0.

    The network samples scaled values, which may be negative in price units. High and low are not corrected; metrics
    count how often they fail to enclose open and close.
    """
    floor = np.zeros((*last.shape[:-1], 1, 1, len(CHANNELS)), dtype=np.float32)
    floor[..., :VOLUME] = 1e-6 * last[..., None, None, CLOSE, None]
    return np.maximum(paths, floor)


def _trained_context(model: Kronos) -> int:
    """Context of the published model of the same shape; 512 for others."""
    for name, shape in MODELS.items():
        if (shape.d_model, shape.n_layers) == (model.config.d_model, model.config.n_layers):
            return MAX_CONTEXT[name]
    return 512


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The named dtype; a ConfigError if the device does not support it."""
    dtype: torch.dtype = getattr(torch, name)
    if dtype is torch.bfloat16:
        supported = {
            "cpu": lambda: bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
            "cuda": torch.cuda.is_bf16_supported,
        }.get(device.type, lambda: False)
        if not supported():
            raise ConfigError(f"dtype 'bfloat16' is not supported by device '{device}'; use 'float32'")
    return dtype
