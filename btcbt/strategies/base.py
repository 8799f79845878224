"""The Strategy protocol: the base class that users subclass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel

from btcbt.loading import Params
from btcbt.records import DataRange, FloatArray, Forecast, Forecasts, Holding

__all__ = ["Params", "Strategy"]


class Strategy(ABC):
    """Decides, at each origin, which fraction of equity to hold.

    A strategy is a class in any importable file. Its parameters are the class attribute `Params`, so that an
    experiment file is validated before anything runs::

        from btcbt.strategies import Params, Strategy
        from pydantic import Field

        class MineParams(Params):
            threshold: float = Field(0.001, ge=0)

        class Mine(Strategy):
            Params = MineParams
            params: MineParams

            def decide(self, forecast, holding):
                return 1.0 if forecast.returns().mean() > self.params.threshold else 0.0

    `decide` is called at every eligible origin, in order of time, and must depend only on its
    arguments: past candles are in ``forecast.window``, the position is in ``holding``.
    """

    Params: type[Params] = Params

    params: Any
    """An instance of `Params`."""

    uses_forecast: ClassVar[bool] = True
    """False if `decide` uses only the window: it then runs once, and gets no paths (S = 0)."""

    def __init__(self, params: BaseModel | None = None) -> None:
        self.params = self.Params() if params is None else params

    @abstractmethod
    def decide(self, forecast: Forecast, holding: Holding) -> float:
        """Return the target weight.

        Parameters
        ----------
        forecast : Forecast
            The known candles and the sampled paths.
        holding : Holding
            The current position.

        Returns
        -------
        float
            Fraction of equity to hold from the next candle's open, in [-1, 1]. Return
            ``holding.weight`` to leave the position as it is (no order is sent then).
        """

    @classmethod
    def decide_many(cls, forecasts: Forecasts, weights: FloatArray, params: Sequence[Any]) -> FloatArray | None:  # noqa: ARG003
        """Decide at consecutive origins for several parameters at once; optional, for sweeps over many parameters.

        It must decide what `decide` does, one origin after the other; a sweep compares both at some origins.

        Parameters
        ----------
        forecasts : Forecasts
            B origins.
        weights : float64 (K,)
            The holding of each configuration before the first of them.
        params : sequence of Params (K,)
            Their parameters.

        Returns
        -------
        float64 (B, K), or None
            Target weights; None (the default) if it decides at one origin at a time only.
        """
        return None

    def data_ranges(self) -> Sequence[DataRange] | None:
        """Data ranges used by anything that it loads or was fitted on; None (the default) if not declared.

        A strategy that reads a file (fitted weights, a table of thresholds) declares here the data behind that file;
        otherwise the audit reports it as undeclared.
        """
        return None
