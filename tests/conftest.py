"""Fixtures for every test."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from btcbt.candles import make_candles, read_candles
from btcbt.records import Candles, FloatArray, Window

if TYPE_CHECKING:
    from btcbt.report.run.panel import PanelRun

ROOT = Path(__file__).resolve().parents[1]
HOUR_MS = 3_600_000
START_MS = 1_546_300_800_000  # 2019-01-01T00:00Z


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands print does not depend on the terminal of whoever runs the tests."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that starts at the same point in every test."""
    return np.random.default_rng(20_190_601)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of what tests use and the project may not carry: real candles, and golden vectors."""
    folder = Path(os.environ.get("BTCBT_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; set BTCBT_SHARED to the one that holds data/ and golden/")
    return folder


@pytest.fixture(scope="session")
def shared_data(shared: Path) -> Path:
    """The folder of real Binance candles."""
    return shared / "data"


@pytest.fixture(scope="session")
def sample_candles() -> Candles:
    """The bundled BTC/USD hours."""
    return read_candles("bundled:BTCUSD_1h")


@pytest.fixture
def make_windows(rng: np.random.Generator) -> Callable[..., list[Window]]:
    """Build n overlapping windows of one simulated history whose volatility clusters, an hour apart."""

    def build(n: int, context: int, *, price: float = 4000.0, volatility: float = 0.006) -> list[Window]:
        values = simulate_candles(rng, n + context - 1, price=price, volatility=volatility)
        open_time = START_MS + HOUR_MS * np.arange(len(values), dtype=np.int64)
        for array in (values, open_time):
            array.setflags(write=False)
        return [Window(open_time[i : i + context], values[i : i + context], HOUR_MS) for i in range(n)]

    return build


@pytest.fixture
def make_history(rng: np.random.Generator) -> Callable[..., Candles]:
    """Build a simulated history of n hours from 2019-01-01, without the rows that are named missing."""

    def build(n: int, missing: Sequence[int] = (), *, price: float = 4000.0) -> Candles:
        values = simulate_candles(rng, n, price=price, volatility=0.006)
        open_time = START_MS + HOUR_MS * np.arange(n, dtype=np.int64)
        keep = np.setdiff1d(np.arange(n), missing)
        return make_candles(open_time[keep], values[keep], interval="1h", source="simulated")

    return build


def simulate_candles(rng: np.random.Generator, n: int, *, price: float, volatility: float) -> FloatArray:
    """Candles (n, 6) with GARCH(1,1) Student t returns, small gaps, wicks and log-normal volumes."""
    shocks = rng.standard_t(5.0, n) * np.sqrt(3.0 / 5.0)
    returns, variance = np.empty(n), volatility**2
    for i, shock in enumerate(shocks):
        returns[i] = np.sqrt(variance) * shock
        variance = 0.05 * volatility**2 + 0.10 * returns[i] ** 2 + 0.85 * variance
    close = price * np.exp(np.cumsum(returns))
    opening = np.concatenate(([price], close[:-1])) * np.exp(0.05 * volatility * rng.standard_normal(n))
    high = np.maximum(opening, close) * np.exp(0.3 * volatility * rng.exponential(size=n))
    low = np.minimum(opening, close) * np.exp(-0.3 * volatility * rng.exponential(size=n))
    volume = np.exp(5.0 + rng.standard_normal(n))
    amount = volume * (opening + high + low + close) / 4
    return np.stack((opening, high, low, close, volume, amount), axis=1)


@pytest.fixture(scope="session")
def panel(tmp_path_factory: pytest.TempPathFactory) -> "PanelRun":
    """A finished run on three coins."""
    from btcbt.walkforward.runner import run  # only where it is used: it imports for seconds
    from tests.small_panel import panel_config

    return run(panel_config(tmp_path_factory.mktemp("panel")))
