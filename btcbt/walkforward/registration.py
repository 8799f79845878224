"""Studies: what a registration freezes, and whether a run is the study that was registered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from btcbt.config import RunConfig, time_ms, time_text
from btcbt.errors import CandleError, ConfigError
from btcbt.forecasters import Forecaster, create_forecaster
from btcbt.loading import source_sha256
from btcbt.records import Candles
from btcbt.storage.forecasts import NUMERICAL_VERSION
from btcbt.storage.ledger import stretch_digest
from btcbt.storage.registrations import Registration, read_registrations, study_digest
from btcbt.trees import leaves, tree_digest
from btcbt.walkforward.forecasters import forecasters_in_order
from btcbt.walkforward.provenance import code_version, package_sha256
from btcbt.walkforward.traders import Trader


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run stands to the registrations of its name.

    Attributes
    ----------
    registration : Registration or None
        That of this very study, or else the newest of the name; None if there is none.
    differs : tuple of str
        What differs from it; empty if the run is the registered study.
    count : int
        Registrations of the name.
    """

    registration: Registration | None
    differs: tuple[str, ...]
    count: int

    @property
    def registered_ms(self) -> int | None:
        """When this very study was registered, ms UTC; None if it was not."""
        if self.registration is None or self.differs:
            return None
        return time_ms(datetime.fromisoformat(self.registration.registered))

    def as_json(self) -> dict[str, Any] | None:
        """For the manifest; None without a registration."""
        if self.registration is None:
            return None
        return {
            "registered": self.registration.registered,
            "digest": self.registration.digest,
            "candles_until": time_text(self.registration.candles["end"]),
            "differs": list(self.differs),
            "registrations": self.count,
        }


def until_now(config: RunConfig, candles: Candles) -> RunConfig:
    """A study with its window cut to the candles that exist; other experiments as they are.

    Raises
    ------
    CandleError
        If no candle of the window exists yet.
    """
    if not config.hypotheses or not len(candles):
        return config
    close = int(candles.open_time[-1]) + candles.interval_ms
    if time_ms(config.windows.start) >= close:
        raise CandleError(
            f"candles {candles.source}: they end {time_text(close)}, before the window of the study "
            f"({time_text(config.windows.start)} .. {time_text(config.windows.end)}); run it once it has candles"
        )
    stop = close + candles.interval_ms  # the last origin may be the last close itself, as in `btcbt.windows`
    if time_ms(config.windows.end) <= stop:
        return config
    end = datetime.fromtimestamp(stop / 1000, UTC)
    return config.model_copy(update={"windows": config.windows.model_copy(update={"end": end})})


def check_accounts(config: RunConfig, traders: Sequence[Trader]) -> None:
    """Check that each account of a hypothesis exists.

    Raises
    ------
    ConfigError
        If one does not.
    """
    known = [trader.name for trader in traders]
    for name, one in config.hypotheses.items():
        if one.kind == "account" and one.account not in known:
            raise ConfigError(
                f"hypothesis '{name}': there is no account '{one.account}'; the accounts are {', '.join(known)}; "
                "name the forecaster that the strategy trades on, or none if it uses none"
            )


def starting_forecasters(
    config: RunConfig, known: Mapping[str, Forecaster] = MappingProxyType({})
) -> dict[str, Forecaster]:
    """Every forecaster with the weights that it starts from, before any fit; those in `known` are not loaded again."""
    built: dict[str, Forecaster] = {}
    for name, one in forecasters_in_order(config).items():
        part = one if one.based_on is not None else one.without_refit()
        built[name] = known.get(name) or create_forecaster(part, config.windows, config.forecast_seed, built)
    return built


def study_of(config: RunConfig, forecasters: Mapping[str, Forecaster], traders: Sequence[Trader]) -> dict[str, Any]:
    """What a registration freezes, as JSON values: all that decides the numbers, but for candles to come.

    The path of the candles is left out, since their file grows and may move; candles known at the registration are
    compared by their digest instead.
    """
    tree = config.content()
    hypotheses = tree.pop("hypotheses")
    del tree["name"], tree["candles"]["path"]
    study = {
        "name": config.name,
        "configuration": tree,
        "hypotheses": hypotheses,
        "weights": {name: tree_digest(dict(one.identity())) for name, one in forecasters.items()},
        "code": {
            "version": code_version(),
            "numerical_version": NUMERICAL_VERSION,
            "package": package_sha256(),
            "strategies": {trader.name: source_sha256(type(trader.strategy)) for trader in traders},
        },
    }
    plain: dict[str, Any] = json.loads(json.dumps(study))
    return plain


def standing(
    config: RunConfig, candles: Candles, forecasters: Mapping[str, Forecaster], traders: Sequence[Trader]
) -> Standing:
    """Compare a run with the registrations of its name.

    Raises
    ------
    StoreError
        If a registration of the name is damaged.
    """
    registrations = read_registrations(config.store.folder, config.name)
    if not registrations:
        return Standing(None, (), 0)
    study = study_of(config, starting_forecasters(config, forecasters), traders)
    digest = study_digest(study)
    chosen = next((one for one in registrations if one.digest == digest), registrations[-1])
    return Standing(chosen, tuple(_differences(chosen, study, candles)), len(registrations))


def known_candles(candles: Candles) -> dict[str, Any]:
    """The candles that exist at a registration."""
    first, end = int(candles.open_time[0]), int(candles.open_time[-1]) + candles.interval_ms
    return {"first": first, "end": end, "stretch": stretch_digest(candles, first, end)}


def _differences(registered: Registration, study: Mapping[str, Any], candles: Candles) -> Iterator[str]:
    """Keys of the configuration, and parts, that are not as registered."""
    before, now = dict(leaves(registered.study)), dict(leaves(study))
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            yield key.removeprefix("configuration.")
    then = registered.candles
    if stretch_digest(candles, then["first"], then["end"]) != then["stretch"]:
        yield f"candles before {time_text(then['end'])}"
