"""The protocol of strategies: the base class that a user subclasses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel

from btcbt.loading import Params
from btcbt.records import DataRange, Forecast, Holding

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

    `decide` is called at every eligible origin, in order of time, and must be a function of its arguments
    alone: what it needs of the past is in ``forecast.window``, what it holds is in ``holding``.
    """

    Params: type[Params] = Params

    params: Any
    """An instance of `Params`."""

    uses_forecast: ClassVar[bool] = True
    """False if `decide` looks at the window alone: it then runs once, and gets no paths (S = 0)."""

    def __init__(self, params: BaseModel | None = None) -> None:
        self.params = self.Params() if params is None else params

    @abstractmethod
    def decide(self, forecast: Forecast, holding: Holding) -> float:
        """Return the target weight.

        Parameters
        ----------
        forecast : Forecast
            The known candles and the sampled futures.
        holding : Holding
            What it holds.

        Returns
        -------
        float
            Fraction of equity to hold from the next candle's open, in [-1, 1]. Return
            ``holding.weight`` to leave the position as it is (no order is sent then).
        """

    def data_ranges(self) -> Sequence[DataRange] | None:
        """Candles that anything it loads or was fitted on has looked at; None (the default) if it does not say.

        A strategy that reads a file (fitted weights, a table of thresholds) declares here what went into that file; the
        audit calls it undeclared if it does not.
        """
        return None
