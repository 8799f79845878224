"""The Forecaster protocol: the base class that users subclass, and the methods that a walk-forward calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel

from btcbt.config import WindowsConfig
from btcbt.errors import ForecasterError
from btcbt.forecasters.candle_paths import candles_from_closes
from btcbt.loading import Params, source_sha256
from btcbt.randomness import uniforms
from btcbt.records import (
    Candles,
    DataRange,
    Float32Array,
    FloatArray,
    ForecastBatch,
    IntArray,
    PathKind,
    Refit,
    Window,
)

if TYPE_CHECKING:  # torch comes with it
    from btcbt.models.kronos.checkpoints.location_prior import LocationPrior


class Part(NamedTuple):
    """Origins that are forecast with the same fitted weights.

    Attributes
    ----------
    rows : int64
        Rows of the given origins.
    weights : str
        Digest of weights fitted for these origins; empty if the forecaster's identity covers them.
    ranges : sequence of DataRange, or None
        As `Forecaster.data_ranges`, of these weights.
    """

    rows: IntArray
    weights: str
    ranges: Sequence[DataRange] | None


class Forecaster(ABC):
    """Turns windows of known candles into sampled futures.

    A forecaster is a class in any importable file. Its parameters are the class attribute `Params`, so that an
    experiment is validated before anything runs::

        import numpy as np
        from btcbt.forecasters import Forecaster, Params

        class MineParams(Params):
            volatility: float = 0.01

        class Mine(Forecaster):
            Params = MineParams

            def forecast(self, windows):
                last = self.history(windows)[:, -1, 3]                   # (B,), the last closes
                moves = 2 * self.uniforms(windows)[..., 0] - 1           # (B, S, H)
                walk = np.cumsum(self.params.volatility * moves, axis=2)
                return self.batch(windows, last[:, None, None] * np.exp(walk))

            def data_ranges(self):
                return ()  # nothing is fitted outside of the window

            paths_are = "independent"  # each path is drawn on its own

    and an experiment names it: ``forecasters: {mine: {use: "my_forecasters:Mine", params: {volatility: 0.02}}}``.

    Parameters
    ----------
    params : Params, optional
        Validated parameters; the defaults of `Params` if left out.
    context, horizon, n_paths, seed : int
        See the attributes.

    Attributes
    ----------
    context : int
        T, candles in each window: what the forecaster needs. An origin needs the longest of all forecasters.
    horizon : int
        H, candles ahead.
    n_paths : int
        S, sample paths of each origin.
    seed : int
        Keys the random numbers (`btcbt.randomness.uniforms`).
    """

    Params: type[Params] = Params

    params: Any
    """An instance of `Params`."""
    base: Forecaster | None = None
    """The forecaster whose forecasts this one processes (`Postprocessor`); None if it makes its own."""
    version: int = 1
    """Increase it whenever equal windows, parameters and seed give different paths for a reason that neither source nor
    parameters show, such as a replaced file of weights."""
    paths_are: PathKind = "dependent"
    """How the S paths of an origin are made: ``independent`` if each is drawn on its own from one distribution, as with
    `uniforms`, ``dependent`` if in any way with regard to each other (systematic sampling, quantiles, paths moved or
    scaled around their own median, a shuffle). It chooses the estimator of CRPS and energy score
    (`btcbt.metrics.ensembles`). What is not declared is taken as dependent, which is right for any paths and favours
    none: the plain estimator adds about 3 % to the score of 30 independent ones."""
    location_prior: LocationPrior | None = None
    """What validation hours of its own say about the location of its forecasts, for `located` forecasters on it."""
    single_threaded: bool = False
    """True if a forecast is slow and runs best on one core: the work is then spread over processes."""

    def __init__(self, params: BaseModel | None = None, *, context: int, horizon: int, n_paths: int, seed: int) -> None:
        self.params = self.Params() if params is None else params
        self.context = context
        self.horizon = horizon
        self.n_paths = n_paths
        self.seed = seed

    # -- to be written by users ---------------------------------------------------------------------------

    @abstractmethod
    def forecast(self, windows: Sequence[Window]) -> ForecastBatch:
        """Sample the H candles after each window.

        Parameters
        ----------
        windows : sequence of Window
            B windows of T candles each, of one interval.

        Returns
        -------
        ForecastBatch
            ``paths`` float32 (B, S, H, 6); the paths of an origin may not depend on the other windows of the call.
            Use `batch` to make one.
        """

    def data_ranges(self) -> Sequence[DataRange] | None:
        """Data that fitted weights have used, targets included; empty if nothing was fitted, None if unknown.

        None by default: origins are then labelled ``unknown``, never ``clean``.
        """
        return None

    def identity(self) -> Mapping[str, object]:
        """Everything besides the candles that determines a forecast, as JSON values.

        Two forecasters with equal identities give equal paths on equal windows; the store keys on it. It contains
        digests of source and weights, not names or paths of files. A forecaster that reads weights from files adds
        their digests: ``{**super().identity(), "weights": digest}``.

        Raises
        ------
        ForecasterError
            If the source of the class is not in a file.
        """
        source = source_sha256(type(self))
        if not source:
            raise ForecasterError(
                f"forecaster {type(self).__name__}: its source is in no file, so it cannot be digested "
                "and its stored forecasts cannot be identified; move the class into a file, or define identity()"
            )
        return {
            "kind": "user",
            "class": type(self).__qualname__,
            "version": self.version,
            "source_sha256": source,
            "params": self.params.model_dump(mode="json"),
            "context": self.context,
            "horizon": self.horizon,
            "n_paths": self.n_paths,
            "seed": self.seed,
        }

    def scaling(self, windows: Sequence[Window]) -> NDArray[Any] | None:
        """What each window is scaled with, (B, ...), for the look-ahead audit; None if it is not reported."""
        return None

    def reconstruct(self, windows: Sequence[Window]) -> FloatArray | None:
        """The last close of each window as the forecaster's own encoding gives it back, (B,); None without one."""
        return None

    @property
    def batch_size(self) -> int:
        """Number of origins per call; it affects only speed and memory."""
        return 64

    # -- helpers for `forecast` -----------------------------------------------------------------------

    def history(self, windows: Sequence[Window]) -> FloatArray:
        """The candles of windows as one array, float64 (B, T, 6), a copy.

        Raises
        ------
        ValueError
            If a window does not have `context` candles.
        """
        history = np.empty((len(windows), self.context, 6), dtype=np.float64)
        for row, window in zip(history, windows, strict=True):
            if window.values.shape != row.shape:
                raise ValueError(f"a window has values {window.values.shape}; expected {row.shape}")
            row[:] = window.values
        return history

    def uniforms(self, windows: Sequence[Window]) -> FloatArray:
        """Two uniform numbers in [0, 1) for each step of each path, float64 (B, S, H, 2).

        They depend on seed, origin, path and step alone (`btcbt.randomness.uniforms`), so that paths drawn from them
        do not depend on batch size, order or process. `batch` uses the second one to turn closes into candles.
        """
        return uniforms(self.seed, origins_of(windows), self.n_paths, self.horizon)

    def batch(self, windows: Sequence[Window], paths: ArrayLike, **provenance: str) -> ForecastBatch:
        """Make the batch of sampled paths that `forecast` returns.

        Parameters
        ----------
        windows : sequence of Window
            The windows passed to `forecast`.
        paths : array (B, S, H, 6) or (B, S, H)
            Sampled candles, or closes alone, of any float type. Closes become candles with the shape and the volume
            of past candles of the window, drawn with replacement (`candle_paths.candles_from_closes`).
        provenance : str
            Notes for the manifest of the run.
        """
        sampled = np.asarray(paths)
        if sampled.ndim == 3:
            sampled = candles_from_closes(self.history(windows), sampled, self.uniforms(windows)[..., 1])
        noted = {"forecaster": type(self).__name__, **provenance}
        with np.errstate(over="ignore"):  # infinite values are reported later, with their origin
            return ForecastBatch(origins_of(windows), sampled.astype(np.float32), noted)

    # -- called by the walk-forward, overridden by built-in forecasters ----------------------------------

    @classmethod
    def from_config(cls, config: Any, windows: WindowsConfig, seed: int, base: Forecaster | None = None) -> Self:
        """Build from a section of an experiment.

        Parameters
        ----------
        config : ForecasterSection
            The schema whose `builds` is this class.
        windows : WindowsConfig
            Gives the context and the horizon.
        seed : int
            Keys the random numbers.
        base : Forecaster, optional
            The forecaster that the configuration names as base.
        """
        raise TypeError(f"{cls.__name__} cannot be built from a schema")

    @classmethod
    def from_refit(cls, config: Any, windows: WindowsConfig, seed: int, refit: Refit) -> Self:
        """Build with the weights of a refit, otherwise as `from_config`."""
        raise TypeError(f"{cls.__name__} cannot be refitted")

    def on_history(
        self,
        candles: Candles,
        windows: WindowsConfig,
        until: int | None = None,
        others: Sequence[Candles] = (),
    ) -> Forecaster:
        """Bind the forecaster to a history on which it is fitted during the walk-forward; itself if it is not fitted.

        Parameters
        ----------
        candles : Candles
            The history of the experiment. Forecasts may depend only on candles closed by their origin; fit on
            ``candles.observed``, which leaves out those that fill a gap.
        windows : WindowsConfig
            The range of the walk-forward.
        until : int, optional
            Origins after this one (ms UTC) use the fits that serve it; for the audit.
        others : sequence of Candles
            The histories of the other symbols of a panel, if it is fitted on all of them.
        """
        return self

    def parts(self, origins: IntArray) -> Iterator[Part]:
        """Group origins by the weights that forecast them; a single group unless the forecaster is refitted."""
        yield Part(np.arange(len(origins), dtype=np.int64), "", self.data_ranges())

    def refits(self, origins: IntArray) -> tuple[Refit, ...]:
        """The refits that serve the origins, each once; empty if it is not refitted."""
        return ()

    def follow(self, windows: Iterable[Window], batches: Iterable[ForecastBatch]) -> Iterator[ForecastBatch]:
        """Make forecasts from those of `base`; see `Postprocessor.follow`."""
        raise TypeError(f"{type(self).__name__} has no base to follow")


class Postprocessor(Forecaster):
    """A forecaster that processes the forecasts of another one, its `base`, in order of time.

    An experiment names the base: ``{use: "my_forecasters:Mine", base: kronos}``. Its work cannot be distributed,
    since each origin may depend on earlier ones; the base's forecasts are read from the store.

    Parameters
    ----------
    base : Forecaster
        The forecaster to process; it may not have a base itself.
    params : Params, optional
        As of `Forecaster`.
    """

    base: Forecaster

    looked_at: ClassVar[tuple[DataRange, ...]] = ()
    """Candles on which the method itself was chosen, with scores in sight."""

    def __init__(self, base: Forecaster, params: BaseModel | None = None) -> None:
        if base.base is not None:
            raise TypeError(f"{type(base).__name__} is based on another forecaster; use its base")
        super().__init__(params, context=base.context, horizon=base.horizon, n_paths=base.n_paths, seed=base.seed)
        self.base = base

    @abstractmethod
    def follow(self, windows: Iterable[Window], batches: Iterable[ForecastBatch]) -> Iterator[ForecastBatch]:
        """Forecast all origins of a walk-forward in order.

        Parameters
        ----------
        windows : iterable of Window
            Windows of every origin, in order of time.
        batches : iterable of ForecastBatch
            The base's forecasts for them, in batches of any size.

        Yields
        ------
        ForecastBatch
            One for each batch. The paths of an origin may depend on earlier origins, but not on how the origins are
            divided into batches.
        """

    def forecast(self, windows: Sequence[Window]) -> ForecastBatch:
        """Forecast windows in order of time, without earlier state.

        Unlike for other forecasters, the paths of an origin may depend on earlier windows of the call. If forecasts of
        the base exist already, use `follow`.

        Returns
        -------
        ForecastBatch
            ``paths`` (B, S, H, 6).
        """
        step = self.base.batch_size
        parts = (self.base.forecast(windows[start : start + step]) for start in range(0, len(windows), step))
        batches = list(self.follow(windows, parts))
        return ForecastBatch(
            np.concatenate([batch.origins for batch in batches]),
            np.concatenate([batch.paths for batch in batches]),
            batches[-1].provenance,
        )

    def identity(self) -> Mapping[str, object]:
        """As of `Forecaster`, and the base's identity.

        The origins that it has learned from are not part of it; see `btcbt.storage.forecasts.history_digests`.
        """
        return {**super().identity(), "base": dict(self.base.identity())}

    @property
    def batch_size(self) -> int:
        """That of the base."""
        return self.base.batch_size

    def data_ranges(self) -> Sequence[DataRange] | None:
        """Those of the base, and `looked_at`; override it if anything was fitted on candles after an origin."""
        return self._with_looked_at(self.base.data_ranges())

    def parts(self, origins: IntArray) -> Iterator[Part]:
        """Those of the base, each with `looked_at`."""
        for part in self.base.parts(origins):
            yield part._replace(ranges=self._with_looked_at(part.ranges))

    def refits(self, origins: IntArray) -> tuple[Refit, ...]:
        """Those of the base."""
        return self.base.refits(origins)

    def _with_looked_at(self, ranges: Sequence[DataRange] | None) -> Sequence[DataRange] | None:
        return None if ranges is None else (*ranges, *self.looked_at)


def origins_of(windows: Sequence[Window]) -> IntArray:
    """Origins (B,) of windows, ms UTC."""
    return np.array([window.origin for window in windows], dtype=np.int64)


def change_in_order(
    windows: Iterable[Window],
    batches: Iterable[ForecastBatch],
    change: Callable[[Sequence[Window], Float32Array], Float32Array],
    *,
    at_once: int,
    verb: str,
    provenance: Mapping[str, str],
) -> Iterator[ForecastBatch]:
    """Forecasts with other paths, made of them and their windows in order: the loop of a `Postprocessor.follow`.

    Parameters
    ----------
    windows, batches
        As of `Postprocessor.follow`.
    change : callable
        The next windows (b,) and their paths (b, S, H, 6) to other paths.
    at_once : int
        Most origins that `change` is given.
    verb : str
        What it does, for a message.
    provenance : mapping
        Added to that of the base.

    Raises
    ------
    ValueError
        If windows and batches have different origins.
    """
    remaining = iter(windows)
    for batch in batches:
        paths = np.empty(batch.paths.shape, dtype=np.float32)
        for start in range(0, len(batch), at_once):
            rows = slice(start, start + at_once)
            asked = list(islice(remaining, len(batch.origins[rows])))
            if not np.array_equal(origins_of(asked), batch.origins[rows]):
                raise ValueError(f"the windows are not those of the forecasts to {verb}")
            paths[rows] = change(asked, batch.paths[rows])
        yield ForecastBatch(batch.origins, paths, {**batch.provenance, **provenance})
