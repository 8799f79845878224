"""The loop itself, with forecasters of the tests' own."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from btcbt.config import RunConfig
from btcbt.errors import CandleError, ConfigError, ForecasterError, StrategyError
from btcbt.forecasters.base import Forecaster
from btcbt.progress import Progress
from btcbt.records import CLOSE, DataRange, ForecastBatch, Window
from btcbt.walkforward import forecasters, runner, traders

START = 1_559_347_200_000  # 2019-06-01T00:00Z
HOUR = 3_600_000


class Echo(Forecaster):
    """Repeats the last candle, with the hour of the origin as volume; notes what it was asked."""

    def __init__(self, context: int, horizon: int, ranges: Sequence[DataRange] | None = ()) -> None:
        super().__init__(context=context, horizon=horizon, n_paths=2, seed=0)
        self.asked: list[list[int]] = []
        self.ranges = ranges

    batch_size = 10  # type: ignore[assignment]

    def forecast(self, windows: Sequence[Window]) -> ForecastBatch:
        self.asked.append([(window.origin - START) // HOUR for window in windows])
        paths = np.stack([np.broadcast_to(w.values[-1].astype(np.float32), (2, self.horizon, 6)) for w in windows])
        return ForecastBatch(np.array([w.origin for w in windows]), paths, {"device": "test"})

    def identity(self) -> Mapping[str, object]:
        return {"kind": "echo"}

    def data_ranges(self) -> Sequence[DataRange] | None:
        return self.ranges


def config(root: Path, **changes: object) -> RunConfig:
    tree = {
        "name": "unit",
        "candles": {"path": "bundled:BTCUSD_1h"},
        "windows": {"context": 20, "horizon": 3, "start": "2019-06-01", "end": "2019-06-03"},
        "forecasters": {"echo": {"kind": "drift", "n_paths": 2}},
        "store": {"root": str(root), "shard_size": 25},
    }
    return RunConfig.model_validate(tree | changes, strict=False)


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Echo:
    """Stands where the experiment says drift."""
    forecaster = Echo(20, 3)
    create = forecasters.create_forecaster

    def instead(part: object, windows: object, seed: int) -> Forecaster:
        return forecaster if getattr(part, "kind", "") == "drift" else create(part, windows, seed)  # type: ignore[arg-type]

    monkeypatch.setattr(forecasters, "create_forecaster", instead)
    return forecaster


def test_batches_end_with_their_shard_and_cover_every_origin_once(echo: Echo, tmp_path: Path) -> None:
    run = runner.run(config(tmp_path))
    assert [len(batch) for batch in echo.asked] == [10, 10, 5, 10, 10, 3]
    assert sum(echo.asked, []) == list(range(48))  # noqa: RUF017
    stored = run.forecasts("echo")
    assert stored.paths().shape == (48, 2, 3, 6)
    assert len(list((run.directory / "forecasts" / "echo").glob("*.parquet"))) == 2
    assert run.manifest["forecasters"]["echo"]["provenance"] == {"device": "test"}


def test_a_forecaster_sees_the_candles_up_to_the_origin_and_no_more(echo: Echo, tmp_path: Path) -> None:
    from btcbt.candles import read_candles

    candles = read_candles("bundled:BTCUSD_1h")
    run = runner.run(config(tmp_path))
    last = np.searchsorted(candles.open_time, START) - 1
    paths = run.forecasts("echo").paths()
    np.testing.assert_array_equal(paths[:, 0, 0, CLOSE], candles.values[last : last + 48, CLOSE].astype(np.float32))


def test_only_the_origins_that_are_missing_are_forecast(echo: Echo, tmp_path: Path) -> None:
    windows = {"context": 20, "horizon": 3, "start": "2019-06-01T10:00:00Z", "end": "2019-06-01T20:00:00Z"}
    runner.run(config(tmp_path, windows=windows))
    echo.asked.clear()
    runner.run(config(tmp_path))
    assert sum(echo.asked, []) == [*range(10), *range(20, 48)]  # noqa: RUF017


def test_scores_are_split_by_the_label_of_each_origin(echo: Echo, tmp_path: Path) -> None:
    echo.ranges = [
        DataRange("pretraining", 0, START + 10 * HOUR),
        DataRange("selection", START, START + 30 * HOUR),
    ]
    run = runner.run(config(tmp_path))
    assert run.manifest["forecasters"]["echo"]["labels"] == {"seen": 10, "selected-on": 20, "clean": 18}
    scores = run.scores()
    for label, count in (("seen", 10), ("selected-on", 20), ("clean", 18)):
        (found,) = scores.query(f"forecaster == 'echo' and group == 'label={label}' and metric == 'origins'")["value"]
        assert found == count


def test_nothing_is_called_out_of_sample_unless_it_is_clean(echo: Echo, tmp_path: Path) -> None:
    from rich.console import Console

    from btcbt.report.summary import summary

    def words(ranges: Sequence[DataRange] | None) -> str:
        echo.ranges = ranges
        console = Console(width=120, record=True, file=(tmp_path / "out").open("w"))
        console.print(summary(runner.run(config(tmp_path))))
        return console.export_text()

    assert "Every forecast is out-of-sample" in words(())
    for ranges, said in (
        (None, "echo: 48 unknown origins"),
        ([DataRange("pretraining", 0, START + HOUR)], "echo: 1 seen origins"),
        ([DataRange("selection", 0, START + HOUR)], "echo: 1 selected-on origins"),
    ):
        text = words(ranges)
        assert said in text
        assert "out-of-sample" not in text


def test_a_candle_that_is_not_finite_is_named_and_not_stored(
    echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(windows: Sequence[Window]) -> ForecastBatch:
        batch = Echo.forecast(echo, windows)
        paths = batch.paths.copy()
        paths[batch.origins == START + 13 * HOUR, 1, 2, 4] = np.inf
        return ForecastBatch(batch.origins, paths)

    monkeypatch.setattr(echo, "forecast", broken)
    with pytest.raises(
        ForecasterError,
        match="forecaster 'echo' at 2019-06-01T13:00Z: sampled volume inf in path 1, step 3; expected finite",
    ):
        runner.run(config(tmp_path))
    assert not (tmp_path / "unit").exists()


def test_an_answer_for_other_origins_is_refused(echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def backwards(windows: Sequence[Window]) -> ForecastBatch:
        return Echo.forecast(echo, windows[::-1])

    monkeypatch.setattr(echo, "forecast", backwards)
    with pytest.raises(
        ForecasterError, match="'echo' at 2019-06-01T00:00Z: returned a forecast for origin 2019-06-01T09"
    ):
        runner.run(config(tmp_path))


def test_a_strategy_fails_before_the_first_forecast_is_paid_for(echo: Echo, tmp_path: Path) -> None:
    with pytest.raises(StrategyError):
        runner.run(config(tmp_path, strategies={"x": {"use": "no.module:Here"}}))
    assert echo.asked == []


def test_the_name_of_the_benchmark_is_not_for_others(tmp_path: Path) -> None:
    strategies = {"buy_and_hold": {"use": "flat"}}
    with pytest.raises(ConfigError, match=r"strategies\.buy_and_hold: this name is reserved for the benchmark"):
        traders.make_traders(config(tmp_path, strategies=strategies))


def test_a_changed_base_class_changes_the_digest_of_a_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from btcbt.loading import source_sha256
    from btcbt.strategies.loading import load_strategy

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own.py").write_text("from base_of_own import Base\n\n\nclass Own(Base):\n    pass\n")
    digests = set()
    for answer in (1, 22):
        base = f"class Base(Strategy):\n    def decide(self, forecast, holding):\n        return 0 * {answer}\n"
        (tmp_path / "base_of_own.py").write_text(f"from btcbt.strategies.base import Strategy\n\n\n{base}")
        for module in ("own", "base_of_own"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        digests.add(source_sha256(type(load_strategy("own:Own", {}))))
    assert len(digests) == 2


def test_strategies_without_a_forecast_run_once(tmp_path: Path) -> None:
    forecasters = {name: {"kind": "random_walk", "n_paths": 2} for name in ("a", "b")}
    strategies = {
        "held": {"use": "buy_and_hold"},
        "rule": {"use": "threshold"},
        "half": {"use": "threshold", "forecasters": ["b"]},
    }
    made = traders.make_traders(config(tmp_path, forecasters=forecasters, strategies=strategies))
    assert [trader.name for trader in made] == ["held", "rule@a", "rule@b", "half@b"]
    assert [trader.forecaster for trader in made] == [None, "a", "b", "b"]
    assert len({id(trader.strategy) for trader in made}) == 4


def test_progress_adds_up(echo: Echo, tmp_path: Path) -> None:
    from collections import Counter
    from contextlib import contextmanager

    done: Counter[str] = Counter()
    totals: dict[str, int] = {}

    class Counting(Progress):
        @contextmanager
        def stage(self, name, total, *, done: int = 0, unit: str = "origins"):  # type: ignore[no-untyped-def]
            totals[name] = total - done
            yield lambda more: counted(name, more)

    def counted(name: str, more: int) -> None:
        done[name] += more

    strategies = {
        "rule": {"use": "threshold"},
        "flat": {"use": "flat"},
    }
    runner.run(config(tmp_path, strategies=strategies), progress=Counting())
    assert dict(done) == totals
    forecasts = {"forecast random_walk": 48, "forecast echo": 48, "score": 96, "decide": 96}
    assert totals == {**forecasts, "simulate": 3, "sensitivity": 3}


def test_the_first_interrupt_waits_for_the_shard_and_the_second_does_not(
    echo: Echo, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    import signal

    original = echo.forecast
    # A shell that runs its tests in the background has them ignore Ctrl-C.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, inherited))
    before = signal.getsignal(signal.SIGINT)

    def interrupted(windows: Sequence[Window]) -> ForecastBatch:
        if len(echo.asked) == 1:
            signal.raise_signal(signal.SIGINT)
        return original(windows)

    echo.forecast = interrupted  # type: ignore[method-assign]
    with pytest.raises(runner.Interrupted):
        runner.run(config(tmp_path))
    assert sum(map(len, echo.asked)) == 25  # one whole shard
    assert signal.getsignal(signal.SIGINT) is before

    def twice(windows: Sequence[Window]) -> ForecastBatch:
        if len(echo.asked) == 1:
            signal.raise_signal(signal.SIGINT)
            while signal.getsignal(signal.SIGINT) is not before:  # else the two signals may count as one
                pass
            signal.raise_signal(signal.SIGINT)
        return original(windows)

    echo.asked.clear()
    echo.forecast = twice  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt) as caught:
        runner.run(config(tmp_path))
    assert not isinstance(caught.value, runner.Interrupted)
    assert sum(map(len, echo.asked)) == 10
    assert signal.getsignal(signal.SIGINT) is before

    echo.asked.clear()
    echo.forecast = original  # type: ignore[method-assign]
    runner.run(config(tmp_path))
    assert sum(map(len, echo.asked)) == 23  # the first shard was kept


def test_a_run_outside_of_the_main_thread_works(echo: Echo, tmp_path: Path) -> None:
    import threading

    runs = []
    thread = threading.Thread(target=lambda: runs.append(runner.run(config(tmp_path))))
    thread.start()
    thread.join()
    assert runs[0].manifest["origins"]["eligible"] == 48


def test_a_fitted_forecaster_is_clean_and_its_stored_forecasts_are_found_again(tmp_path: Path) -> None:
    windows = {"context": 170, "horizon": 3, "start": "2019-06-01", "end": "2019-06-04"}
    parts = {"har": {"kind": "har", "n_paths": 4, "fit": {"every": "48h", "window": "1000h"}}}
    run = runner.run(config(tmp_path, windows=windows, forecasters=parts))
    assert run.manifest["forecasters"]["har"]["labels"] == {"clean": 72}
    paths = run.forecasts("har").paths()
    longer = windows | {"end": "2019-06-05"}
    again = runner.run(config(tmp_path, windows=longer, forecasters=parts))
    assert again.manifest["forecasters"]["har"]["computed"] == 24
    assert np.array_equal(again.forecasts("har").paths()[:72], paths)


def test_a_history_too_short_for_a_fit_is_refused_before_anything_is_forecast(tmp_path: Path) -> None:
    parts = {"har": {"kind": "har", "n_paths": 4, "fit": {"window": "36500h"}}}
    windows = {"context": 170, "horizon": 3, "start": "2019-06-01", "end": "2019-06-04"}
    with pytest.raises(CandleError, match=r"shorten fit\.window"):
        runner.run(config(tmp_path, windows=windows, forecasters=parts))
    assert not (tmp_path / "store").exists()
