"""Strategies on several symbols: their weights, and what every one of them keeps to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from btcbt.errors import ConfigError, StrategyError
from btcbt.records import Forecast, Holding
from btcbt.strategies.panel.loading import PANEL_BUILT_IN, load_panel_strategy

ForecastOf = Callable[..., Forecast]
SYMBOLS = ("BTC", "ETH", "EOS", "LTC", "XRP")
NOTHING = {symbol: Holding() for symbol in SYMBOLS}


@pytest.fixture
def moment(forecast_of: ForecastOf) -> Callable[..., dict[str, Forecast]]:
    """Forecasts by symbol, each given by the mean and the standard deviation of its returns (bps)."""

    def build(**symbols: tuple[float, float]) -> dict[str, Forecast]:
        return {symbol: forecast_of(np.array([mean - sd, mean + sd]) / 1e4) for symbol, (mean, sd) in symbols.items()}

    return build


def test_top_k_holds_the_best_and_sells_the_worst(moment) -> None:
    seen = moment(BTC=(10, 50), ETH=(30, 50), EOS=(-20, 50), LTC=(5, 50))
    assert load_panel_strategy("top_k").decide(seen, NOTHING) == {"ETH": 1.0}
    assert load_panel_strategy("top_k", {"k": 2}).decide(seen, NOTHING) == {"ETH": 0.5, "BTC": 0.5}
    assert load_panel_strategy("top_k", {"short": True}).decide(seen, NOTHING) == {"ETH": 0.5, "EOS": -0.5}
    pairs = load_panel_strategy("top_k", {"k": 5, "short": True}).decide(seen, NOTHING)
    assert pairs == {"ETH": 0.25, "BTC": 0.25, "LTC": -0.25, "EOS": -0.25}
    assert load_panel_strategy("top_k", {"short": True}).decide(moment(BTC=(10, 50)), NOTHING) == {}


def test_risk_parity_weighs_by_inverse_volatility_and_tilts_to_better_forecasts(moment) -> None:
    plain = load_panel_strategy("risk_parity_tilt", {"strength": 0.0})
    assert plain.decide(moment(BTC=(10, 50), ETH=(-90, 100)), NOTHING) == pytest.approx({"BTC": 2 / 3, "ETH": 1 / 3})
    tilted = load_panel_strategy("risk_parity_tilt", {"strength": 1.0})
    weights = tilted.decide(moment(BTC=(50, 50), ETH=(0, 50)), NOTHING)
    assert weights["BTC"] / weights["ETH"] == pytest.approx(np.e, rel=1e-3)


def test_risk_parity_keeps_its_weights_within_the_band_but_never_more_than_it_has(moment) -> None:
    strategy = load_panel_strategy("risk_parity_tilt", {"strength": 0.0, "band": 0.1})
    seen = moment(BTC=(0, 50), ETH=(0, 50))
    near = NOTHING | {"BTC": Holding(0.55), "ETH": Holding(0.45)}
    assert strategy.decide(seen, near) == {"BTC": 0.55, "ETH": 0.45}
    far = NOTHING | {"BTC": Holding(0.65), "ETH": Holding(0.35)}
    assert strategy.decide(seen, far) == pytest.approx({"BTC": 0.5, "ETH": 0.5})
    # ETH was not eligible when the others shared the whole account: it comes back with its old weight.
    back = NOTHING | {"BTC": Holding(0.59), "ETH": Holding(0.45)}
    assert strategy.decide(seen, back) == pytest.approx({"BTC": 0.5, "ETH": 0.5})


@pytest.mark.parametrize("use", PANEL_BUILT_IN)
def test_weights_are_of_eligible_symbols_within_the_account_and_the_same_in_any_order(use: str, moment) -> None:
    rng = np.random.default_rng(5)
    held = dict(NOTHING)
    strategy = load_panel_strategy(use)
    for _ in range(200):
        eligible = rng.choice(SYMBOLS, size=int(rng.integers(1, 6)), replace=False)
        seen = moment(**{symbol: (rng.normal(0, 30), rng.uniform(5, 90)) for symbol in eligible})
        weights = strategy.decide(seen, held)
        assert set(weights) <= set(eligible)
        assert sum(map(abs, weights.values())) <= 1 + 1e-12
        turned = dict(reversed(list(seen.items())))
        assert strategy.decide(turned, held) == pytest.approx(dict(weights))
        held |= {symbol: Holding(weights.get(symbol, 0.0)) for symbol in eligible}


@pytest.mark.parametrize("use", PANEL_BUILT_IN)
def test_an_unknown_parameter_is_named(use: str) -> None:
    with pytest.raises((StrategyError, ConfigError), match="sise"):
        load_panel_strategy(use, {"sise": 1})
