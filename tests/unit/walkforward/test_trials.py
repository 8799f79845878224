"""Trials of earlier runs on the same hours of the same market count, whatever their file and dates."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from btcbt.candles import make_candles
from btcbt.config import BUY_AND_HOLD, LEDGER_FILE, PortfolioConfig, StoreConfig
from btcbt.portfolio import Simulation, simulate
from btcbt.records import Candles, FloatArray
from btcbt.storage.ledger import Ledger, Trial
from btcbt.walkforward.accounts import account_trials
from btcbt.walkforward.trial_returns import keep_returns
from btcbt.walkforward.trials import count_trials

HOUR = 3_600_000
START = 1_546_300_800_000  # 2019-01-01T00:00Z


@pytest.fixture
def history(make_history: Callable[..., Candles]) -> Candles:
    return make_history(500)


def part(candles: Candles, first: int, last: int) -> Candles:
    """Some rows of a history, as another file."""
    rows = slice(first, last)
    return make_candles(candles.open_time[rows], candles.values[rows], interval="1h", source=f"{first}-{last}")


def account(candles: Candles, first: int, last: int, numbers: range) -> tuple[Simulation, list[Trial]]:
    """Accounts number k, which hold at every hour of the day that k divides, from hour `first` to `last`."""
    hours = np.arange(first, last)
    origins = START + hours * HOUR
    names = [f"every{k}" for k in numbers]
    targets = np.column_stack([*(hours % (k + 2) == 0 for k in numbers), np.ones(len(hours))]).astype(float)
    simulation = simulate(candles, origins, targets, [*names, BUY_AND_HOLD], PortfolioConfig())
    content = {name: {"use": name, "decisions": f"{name} {first} {last}"} for name in names}
    return simulation, account_trials(simulation, candles, "x", content)


def run(roots: list[Path], candles: Candles, first: int, last: int, numbers: range) -> tuple[list[Trial], FloatArray]:
    simulation, ours = account(candles, first, last, numbers)
    return count_trials(roots, ours, simulation, candles)


def names(trials: list[Trial]) -> list[str]:
    return sorted(trial.name for trial in trials)


def test_an_end_moved_by_a_day_sheds_no_trial(history: Candles, tmp_path: Path) -> None:
    run([tmp_path], history, 50, 300, range(10))
    tried, returns = run([tmp_path], history, 50, 324, range(2))
    assert names(tried) == sorted(f"every{k}" for k in range(10)), "and what was run again counts once"
    assert returns.shape == (274, 10)
    assert np.isfinite(returns).sum(axis=0).tolist().count(274) == 2
    assert np.isfinite(returns).all(axis=1).sum() == 250


def test_a_start_moved_by_a_day_makes_no_second_trial_of_a_configuration(history: Candles, tmp_path: Path) -> None:
    run([tmp_path], history, 50, 300, range(10))
    tried, _ = run([tmp_path], history, 74, 300, range(10))
    assert len(tried) == 10
    assert {trial.start for trial in tried} == {START + 74 * HOUR}


def test_a_longer_file_of_the_same_market_sheds_no_trial(history: Candles, tmp_path: Path) -> None:
    run([tmp_path], part(history, 0, 350), 50, 300, range(10))
    tried, returns = run([tmp_path], part(history, 10, 480), 60, 310, range(2))
    assert len(tried) == 10
    assert (np.isfinite(returns).sum(axis=0) >= 240).all()


def test_another_market_and_other_hours_are_not_related(
    history: Candles, make_history: Callable[..., Candles], tmp_path: Path
) -> None:
    other = make_history(500)
    other = make_candles(other.open_time, other.values * 1.01, interval="1h", source="other")
    run([tmp_path], other, 50, 300, range(5))
    run([tmp_path], part(history, 0, 100), 50, 90, range(5, 7))
    tried, _ = run([tmp_path], history, 100, 300, range(2))
    assert names(tried) == ["every0", "every1"]


def test_a_configuration_that_decides_otherwise_on_the_common_hours_is_another_trial(
    history: Candles, tmp_path: Path
) -> None:
    run([tmp_path], history, 50, 300, range(1))
    simulation, ours = account(history, 50, 324, range(1, 2))
    disguised = [replace(ours[0], configuration=account(history, 50, 60, range(1))[1][0].configuration)]
    tried, _ = count_trials([tmp_path], disguised, simulation, history)
    assert len(tried) == 2


def test_two_roots_share_a_ledger_and_keep_their_own(history: Candles, tmp_path: Path) -> None:
    mine, theirs, shared = (tmp_path / name for name in ("mine", "theirs", "shared"))
    run([theirs, shared], history, 50, 300, range(5))
    tried, returns = run([mine, shared], history, 50, 310, range(5, 8))
    assert len(tried) == returns.shape[1] == 8
    assert np.isfinite(returns).all(axis=1).sum() == 250
    shutil.rmtree(shared)
    tried, _ = run([mine], history, 50, 310, range(5, 8))
    assert len(tried) == 3, "what a run tried itself stays in its own ledger"


def append(root: Path, candles: Candles, numbers: range) -> None:
    for k in numbers:
        run([root / f"own{numbers.start}", root / "shared"], candles, 50, 100, range(k, k + 1))


def test_two_processes_append_to_a_shared_ledger_at_once(history: Candles, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=append, args=(tmp_path, history, part)) for part in (range(8), range(4, 12))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    trials = Ledger(tmp_path / "shared" / LEDGER_FILE).trials()
    assert names(trials) == sorted(f"every{k}" for k in range(12))
    tried, returns = run([tmp_path / "third", tmp_path / "shared"], history, 50, 100, range(1))
    assert len(tried) == returns.shape[1] == 12
    assert np.isfinite(returns).all()


def test_lines_without_a_configuration_count_and_line_up_by_their_file(history: Candles, tmp_path: Path) -> None:
    """As an earlier version wrote them: neither configuration nor hours."""
    simulation, ours = account(history, 50, 300, range(4))
    old = [replace(one, configuration="", gross_sharpe=float("nan")) for one in ours]
    folder = tmp_path / "store" / "trials"
    keep_returns(folder, old, simulation, history)
    for file in folder.glob("hours-*"):
        file.unlink()
    Ledger(tmp_path / LEDGER_FILE).record(old)
    tried, returns = run([tmp_path], history, 50, 324, range(2))
    assert len(tried) == 6, "without a configuration nobody can tell that two of them were run again"
    assert np.isfinite(returns).all(axis=1).sum() == 250
    tried, _ = run([tmp_path], history, 50, 300, range(4))
    assert len(tried) == 4, "the same dates say it, and complete the old lines"


def test_a_shared_ledger_is_a_folder(tmp_path: Path) -> None:
    assert StoreConfig(root=str(tmp_path), ledger=str(tmp_path / ".")).ledger_folders == (tmp_path,)
    assert StoreConfig(root="a", ledger="b").ledger_folders == (Path("a"), Path("b"))
    with pytest.raises(ValueError, match="a folder is expected, not a URL") as caught:
        StoreConfig(ledger="s3://bucket/ledger")
    assert "lock" in str(caught.value)
