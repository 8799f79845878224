"""Hypotheses: what a study claims beforehand, about forecasts or about accounts.

They are part of an experiment file, but not of the digest of a run: they change no forecast, no decision and no
account, so that an audit stays about the run when one is added. The digest of a registration covers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from btcbt.config.types import Name, Section


class ForecastHypothesis(Section):
    """The expected loss of `forecaster` is below that of `opponent`, by more than `threshold_bps`.

    `opponent` is that of the experiment if left out. `metric` is the CRPS of the close at `step`, the last one if left
    out, or the energy score of the whole path, which has no step.
    """

    kind: Literal["forecast"]
    forecaster: Name
    opponent: Name | None = None
    metric: Literal["crps_bps", "energy_bps"] = "crps_bps"
    step: int | None = Field(None, ge=1, le=1024)
    threshold_bps: float = Field(0.0, ge=0, le=10_000)


class AccountHypothesis(Section):
    """The mean net return per candle of `strategy` on `forecaster` exceeds `benchmark`'s by more than `threshold_bps`.

    `forecaster` is left out for a strategy that uses no forecast.
    """

    kind: Literal["account"]
    strategy: Name
    forecaster: Name | None = None
    benchmark: Literal["flat", "buy_and_hold"] = "flat"
    threshold_bps: float = Field(0.0, ge=0, le=10_000)

    @property
    def account(self) -> str:
        """Name of the account."""
        return self.strategy if self.forecaster is None else f"{self.strategy}@{self.forecaster}"


HYPOTHESIS_KINDS = ("forecast", "account")
"""Names of union branches that pydantic puts into the location of an error, as `forecasters.BRANCHES`."""


def _known_kind(value: object) -> object:
    if isinstance(value, Mapping) and value.get("kind") not in HYPOTHESIS_KINDS:
        raise PydanticCustomError("hypothesis", "give 'kind', forecast or account")
    return value


HypothesisConfig = Annotated[
    Annotated[ForecastHypothesis | AccountHypothesis, Field(discriminator="kind")], BeforeValidator(_known_kind)
]
