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
    """The expected loss of `forecaster` is below that of `opponent`, by more than `threshold_bps`."""

    kind: Literal["forecast"]
    """A claim on forecasts."""
    forecaster: Name
    """The one that is claimed to be better."""
    opponent: Name | None = None
    """That of the experiment if left out."""
    metric: Literal["crps_bps", "energy_bps"] = "crps_bps"
    """The CRPS of the close at `step`, or the energy score of the whole path."""
    step: int | None = Field(None, ge=1, le=1024)
    """The last one if left out; the energy score has none."""
    threshold_bps: float = Field(0.0, ge=0, le=10_000)
    """By how much it is claimed to be better."""


class AccountHypothesis(Section):
    """The mean net return per candle of an account exceeds `benchmark`'s by more than `threshold_bps`."""

    kind: Literal["account"]
    """A claim on an account."""
    strategy: Name
    """The strategy of the account."""
    forecaster: Name | None = None
    """The forecaster that it trades on; left out for a strategy that uses no forecast."""
    benchmark: Literal["flat", "buy_and_hold"] = "flat"
    """What it is claimed to beat."""
    threshold_bps: float = Field(0.0, ge=0, le=10_000)
    """By how much, per candle."""

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
