"""What every forecaster must do: each built-in kind, and one that a user wrote (`user_forecaster.py`)."""

from __future__ import annotations

import atexit
import hashlib
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from btcbt.candles import read_candles
from btcbt.config import KINDS, ForecasterConfig, WindowsConfig
from btcbt.forecasters import Forecaster, create_forecaster
from btcbt.records import CLOSE, HIGH, LOW, OPEN, VOLUME, Candles, Float32Array, Window
from tests.tiny_quantile_models import SAVERS

Maker = Callable[..., list[Window]]
SEED = 17


@dataclass(frozen=True)
class Case:
    """A forecaster to hold to the contract.

    Attributes
    ----------
    config : dict
        Its part of an experiment, without `n_paths`.
    rtol : float
        How far batch size and the like may move a path, relative; 0 asks for equal bits.
    valid_candles : bool
        Whether high and low must enclose open and close (a network's candles need not).
    context : int
        Candles in a window.
    smallest_price : float
        Prices that it can tell apart (Kronos adds 1e-5 to the spread that it scales by, as the reference does).
    learns : bool
        Whether the paths of an origin depend on the windows before it.
    many : int
        Windows of the longest batch; fewer for a slow one.
    tiny : str
        The saver of `tiny_quantile_models` that makes its checkpoint.
    package : str
        A module that it needs; without it the case is skipped.
    sees_horizon : bool
        Whether its network forecasts all steps together, so that a longer horizon changes the first ones.
    made_of : dict
        The configuration of its base, if it names one.
    """

    config: dict[str, object]
    rtol: float = 0.0
    valid_candles: bool = True
    context: int = 96
    smallest_price: float = 1e-8
    learns: bool = False
    many: int = 64
    tiny: str = ""
    package: str = "btcbt"
    sees_horizon: bool = False
    made_of: dict[str, object] = field(default_factory=lambda: {"kind": "random_walk"})

    def build(self, *, horizon: int = 6, n_paths: int = 5, seed: int = SEED, context: int | None = None) -> Forecaster:
        windows = WindowsConfig(
            context=context or self.context - int(str(self.config.get("block", 1))) + 1,
            horizon=horizon,
            start=datetime(2019, 1, 1, tzinfo=UTC),
            end=datetime(2020, 1, 1, tzinfo=UTC),
        )
        tree = {**self.config, "n_paths": n_paths}
        if self.tiny:
            tree["checkpoint"] = _tiny_checkpoint(self.tiny)
        built = {}
        if "base" in self.config:
            base = TypeAdapter(ForecasterConfig).validate_python({**self.made_of, "n_paths": n_paths})
            built = {"base": create_forecaster(base, windows, seed)}
            tree.pop("n_paths")
        return create_forecaster(
            TypeAdapter(ForecasterConfig).validate_python(tree), windows, seed, built, candles=_history()
        )

    @property
    def kind(self) -> str:
        """What its identity is to say."""
        return str(self.config.get("kind", "user"))

    def assert_same(self, got: Float32Array, expected: Float32Array) -> None:
        if self.rtol == 0.0:
            assert np.array_equal(got, expected)
        else:
            np.testing.assert_allclose(got, expected, rtol=self.rtol)


@cache
def _history() -> Candles:
    """What fitted models are fitted on: real hours, of which they are given those before 2019."""
    return read_candles("bundled:BTCUSD_1h")


@cache
def _tiny_checkpoint(name: str) -> str:
    """Folder of a checkpoint that each process makes for itself, with equal weights."""
    folder = tempfile.TemporaryDirectory(prefix=name)
    atexit.register(folder.cleanup)
    return str(SAVERS[name](Path(folder.name)))


FIT = {"every": None, "window": "1500h"}
USER = f"{Path(__file__).with_name('user_forecaster.py')}:RecentReturns"
CASES = {
    "random_walk": Case({"kind": "random_walk"}),
    "drift": Case({"kind": "drift"}),
    "ewma_volatility": Case({"kind": "ewma_volatility", "decay": 0.94}),
    "garch": Case({"kind": "garch"}),
    "kronos": Case({"kind": "kronos", "device": "cpu"}, rtol=1e-4, valid_candles=False, smallest_price=1.0),
    "kronos_anchored": Case(
        {"kind": "kronos_anchored", "device": "cpu", "block": 12}, rtol=1e-4, valid_candles=False, smallest_price=1.0
    ),
    "har": Case({"kind": "har", "fit": FIT}, context=170),
    "gjr_garch": Case({"kind": "gjr_garch", "fit": FIT}, context=170),
    "boosted_quantiles": Case({"kind": "boosted_quantiles", "fit": FIT, "rounds": 5}, context=170),
    "fracast": Case({"kind": "fracast"}, many=9),
    "chronos_bolt": Case({"kind": "chronos", "device": "cpu"}, rtol=1e-4, tiny="chronos_bolt", package="chronos"),
    "chronos_2": Case(
        {"kind": "chronos", "device": "cpu", "channels": "ohlcv"},
        rtol=1e-4,
        tiny="chronos_2",
        package="chronos",
        sees_horizon=True,
    ),
    "timesfm": Case({"kind": "timesfm", "device": "cpu"}, rtol=1e-4, tiny="timesfm"),
    "calibrated": Case({"kind": "calibrated", "base": "base"}, learns=True),
    "reordered": Case({"kind": "reordered", "base": "base"}, learns=True),
    "located": Case(
        {"kind": "located", "base": "base"},
        rtol=1e-4,
        valid_candles=False,
        smallest_price=1.0,
        learns=True,
        made_of={"kind": "kronos", "device": "cpu"},
    ),
    "user": Case({"use": USER, "params": {"recent": 30}}),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    pytest.importorskip(CASES[request.param].package)
    return CASES[request.param]


@pytest.fixture(params=[name for name, case in CASES.items() if not case.learns])
def memoryless(request: pytest.FixtureRequest) -> Case:
    pytest.importorskip(CASES[request.param].package)
    return CASES[request.param]


def test_every_kind_is_held_to_the_contract() -> None:
    assert {case.kind for case in CASES.values()} == {*KINDS, "user"}


def assert_usable(case: Case, paths: Float32Array) -> None:
    prices = paths[..., :VOLUME]
    assert np.isfinite(paths).all()
    assert (prices > 0).all()
    assert (paths[..., VOLUME:] >= 0).all()
    if case.valid_candles:
        assert (paths[..., HIGH] >= prices.max(axis=-1)).all()
        assert (paths[..., LOW] <= prices.min(axis=-1)).all()


def with_prices(window: Window, change: Callable[[np.ndarray], np.ndarray]) -> Window:
    values = window.values.copy()
    values[:, :VOLUME] = change(values[:, :VOLUME])
    return replace(window, values=values)


def test_paths_have_the_shape_and_type_of_the_contract(case: Case, make_windows: Maker) -> None:
    windows = make_windows(3, case.context)
    batch = case.build(horizon=4, n_paths=2).forecast(windows)
    assert batch.paths.shape == (3, 2, 4, 6)
    assert batch.paths.dtype == np.float32
    assert batch.origins.tolist() == [window.origin for window in windows]
    assert {case.kind, "RecentReturns"} & {*batch.provenance, batch.provenance["forecaster"]}


def test_sampled_candles_are_usable(case: Case, make_windows: Maker) -> None:
    paths = case.build(horizon=24, n_paths=30).forecast(make_windows(min(20, case.many), case.context)).paths
    assert_usable(case, paths)
    assert (paths[..., HIGH] > paths[..., LOW]).any()
    assert paths[..., CLOSE].std() > 0
    assert paths[..., OPEN].std() > 0


def test_the_size_of_a_batch_does_not_change_a_path(memoryless: Case, make_windows: Maker) -> None:
    windows = make_windows(memoryless.many, memoryless.context)
    forecaster = memoryless.build()
    whole = forecaster.forecast(windows).paths
    for size in (1, 7):
        parts = [forecaster.forecast(windows[i : i + size]).paths for i in range(0, memoryless.many, size)]
        memoryless.assert_same(np.concatenate(parts), whole)


def test_the_order_of_windows_does_not_change_a_path(memoryless: Case, make_windows: Maker) -> None:
    windows = make_windows(9, memoryless.context)
    forecaster = memoryless.build()
    memoryless.assert_same(forecaster.forecast(windows[::-1]).paths[::-1], forecaster.forecast(windows).paths)


def test_more_paths_do_not_change_the_first_ones(memoryless: Case, make_windows: Maker) -> None:
    windows = make_windows(3, memoryless.context)
    few, many = (memoryless.build(n_paths=n).forecast(windows).paths for n in (4, 11))
    memoryless.assert_same(many[:, :4], few)


def test_a_longer_horizon_does_not_change_the_first_steps(memoryless: Case, make_windows: Maker) -> None:
    if memoryless.sees_horizon:
        pytest.skip("its network forecasts all steps together")
    windows = make_windows(3, memoryless.context)
    near, far = (memoryless.build(horizon=h).forecast(windows).paths for h in (5, 13))
    memoryless.assert_same(far[:, :, :5], near)


def test_the_same_seed_repeats_the_paths_and_another_does_not(case: Case, make_windows: Maker) -> None:
    windows = make_windows(3, case.context)
    first, again, other = (case.build(seed=s).forecast(windows).paths for s in (SEED, SEED, SEED + 1))
    assert np.array_equal(first, again)
    assert (first[..., CLOSE] != other[..., CLOSE]).any(axis=(1, 2)).all()


def test_origins_and_paths_draw_futures_of_their_own(case: Case, make_windows: Maker) -> None:
    (window,) = make_windows(1, case.context)
    later = replace(window, open_time=window.open_time + window.interval_ms)
    paths = case.build(n_paths=8).forecast([window, later]).paths[..., CLOSE].reshape(16, -1)
    assert len(np.unique(paths, axis=0)) == 16


def test_windows_are_left_as_they_were(case: Case, make_windows: Maker) -> None:
    windows = [replace(w, values=w.values.copy(), open_time=w.open_time.copy()) for w in make_windows(4, case.context)]
    before = [(w.values.copy(), w.open_time.copy()) for w in windows]
    case.build().forecast(windows)
    for window, (values, open_time) in zip(windows, before, strict=True):
        assert np.array_equal(window.values, values)
        assert np.array_equal(window.open_time, open_time)


def test_nothing_is_remembered_between_calls(case: Case, make_windows: Maker) -> None:
    windows = make_windows(6, case.context)
    forecaster = case.build()
    first = forecaster.forecast(windows[:3]).paths
    forecaster.forecast(windows[3:])
    assert np.array_equal(forecaster.forecast(windows[:3]).paths, first)


def test_a_forecast_is_made_of_the_window_and_its_time_alone(case: Case, make_windows: Maker) -> None:
    """Candles that share the window's array, before and after it, do not matter."""
    (window,) = make_windows(1, case.context)
    padded = np.concatenate((window.values[:5] * 3.0, window.values, window.values[:5] / 3.0))
    view = replace(window, values=padded[5:-5])
    forecaster = case.build()
    assert np.array_equal(forecaster.forecast([view]).paths, forecaster.forecast([window]).paths)


def test_constant_prices_survive(case: Case, make_windows: Maker) -> None:
    (window,) = make_windows(1, case.context)
    flat = with_prices(window, lambda prices: np.full_like(prices, 1234.5))
    paths = case.build().forecast([flat]).paths
    assert_usable(case, paths)
    if case.valid_candles:
        np.testing.assert_allclose(paths[..., :VOLUME], 1234.5, rtol=1e-6)


def test_windows_without_volume_survive(case: Case, make_windows: Maker) -> None:
    (window,) = make_windows(1, case.context)
    values = window.values.copy()
    values[:, VOLUME:] = 0.0
    assert_usable(case, case.build().forecast([replace(window, values=values)]).paths)


@pytest.mark.parametrize("price", [1e-8, 1e8])
def test_tiny_and_huge_prices_survive(case: Case, price: float, make_windows: Maker) -> None:
    (window,) = make_windows(1, case.context)
    first = window.values[0, OPEN]
    price = max(price, case.smallest_price)
    paths = case.build().forecast([with_prices(window, lambda prices: prices / first * price)]).paths
    assert_usable(case, paths)
    assert (paths[..., :VOLUME] > price / 100).all()
    assert (paths[..., :VOLUME] < price * 100).all()


def test_prices_that_leap_by_sixteen_decades_survive(case: Case, make_windows: Maker) -> None:
    (window,) = make_windows(1, case.context)
    leaps = np.where(np.arange(case.context) % 2 == 0, 1e-8, 1e8)[:, None]
    wild = with_prices(window, lambda prices: prices / prices.mean() * leaps)
    assert_usable(case, case.build(horizon=24, n_paths=30).forecast([wild]).paths)


def test_an_identity_is_json_and_names_the_kind(case: Case) -> None:
    identity = dict(case.build().identity())
    assert json.loads(json.dumps(identity)) == identity
    assert identity["kind"] == case.kind
    assert dict(case.build().identity()) == identity
    assert dict(case.build(seed=SEED + 1).identity()) != identity


def digests(names: Sequence[str], windows: Sequence[Window]) -> list[str]:
    """SHA-256 of each case's paths; also what another process is asked for."""
    paths = [CASES[name].build().forecast(windows).paths for name in names]
    return [hashlib.sha256(p.tobytes()).hexdigest() for p in paths]


def test_another_process_samples_the_same_bytes(make_windows: Maker) -> None:
    names = [name for name, case in CASES.items() if case.context == 96 and not case.tiny]
    windows = make_windows(3, 96)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(digests, names, windows).result(timeout=120) == digests(names, windows)
