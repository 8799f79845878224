"""Fixtures for every test."""

import os
from pathlib import Path

import numpy as np
import pytest

from btcbt.candles import read_candles
from btcbt.records import Candles

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that starts at the same point in every test."""
    return np.random.default_rng(20_190_601)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real Binance candles, which are not the project's to carry."""
    folder = Path(os.environ.get("BTCBT_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real candles in {folder}; set BTCBT_SHARED to the folder that holds data/*.parquet")
    return folder


@pytest.fixture(scope="session")
def sample_candles() -> Candles:
    """The bundled BTC/USD hours."""
    return read_candles("bundled:BTCUSD_1h")
