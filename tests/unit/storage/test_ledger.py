"""The trial ledger: nothing is counted twice, nothing is lost, and damage is named."""

import json
import logging
import math
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from btcbt.candles import make_candles
from btcbt.errors import StoreError
from btcbt.records import Candles
from btcbt.storage.ledger import VERSION, Ledger, Trial, _checksum, stretch_digest, trial_id


def trial(number: int = 0, **changes: object) -> Trial:
    one = Trial(
        id=trial_id({"number": number}),
        name=f"strategy{number}@walk",
        experiment="x",
        candles="file",
        stretch="stretch",
        start=0,
        end=1000,
        sharpe=0.01 * number,
        n=500,
        skew=0.1,
        kurtosis=3.5,
    )
    return replace(one, **changes)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "runs" / "trials.jsonl")


def test_trials_are_remembered_in_order(ledger: Ledger) -> None:
    assert ledger.trials() == []
    assert ledger.record([trial(2), trial(1)]) == 2
    assert ledger.record([trial(3)]) == 1
    assert ledger.trials() == [trial(2), trial(1), trial(3)]


def test_the_same_configuration_counts_once_whatever_it_is_called(ledger: Ledger) -> None:
    ledger.record([trial(1)])
    before = ledger.file.read_bytes()
    assert ledger.record([trial(1, name="other", experiment="y", sharpe=0.3)]) == 0
    assert ledger.record([trial(1), trial(1)]) == 0
    assert ledger.file.read_bytes() == before
    assert ledger.trials() == [trial(1)]


def test_an_account_that_never_traded_is_a_trial_without_a_sharpe_ratio(ledger: Ledger) -> None:
    nan = float("nan")
    ledger.record([trial(1, sharpe=nan, skew=nan, kurtosis=nan)])
    read = ledger.trials()[0]
    assert all(map(math.isnan, (read.sharpe, read.skew, read.kurtosis)))
    assert json.loads(ledger.file.read_text())["trial"]["sharpe"] is None


def test_every_number_comes_back_bit_for_bit(ledger: Ledger) -> None:
    one = trial(1, sharpe=0.1 + 0.2, skew=-1e-17, kurtosis=1 / 3)
    ledger.record([one])
    assert ledger.trials() == [one]


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[: len(line) // 2],
        lambda line: line.replace(b'"n": 500', b'"n": 501'),
        lambda line: b"\x00\xff not json",
        lambda line: b"[]",
        lambda line: b'{"checksum": "0", "trial": {}}',
        lambda line: b"[" * 100_000,
    ],
)
def test_a_damaged_line_is_named_and_the_others_count(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    ledger.record([trial(1), trial(2), trial(3)])
    lines = ledger.file.read_bytes().splitlines()
    ledger.file.write_bytes(b"\n".join([lines[0], damage(lines[1]), lines[2]]) + b"\n")
    with caplog.at_level(logging.WARNING):
        assert ledger.trials() == [trial(1), trial(3)]
    assert [record.getMessage() for record in caplog.records] == [
        f"{ledger.file}:2: damaged line of the trial ledger; its trial is not counted"
    ]
    assert ledger.record([trial(2)]) == 1
    assert {one.id for one in ledger.trials()} == {trial(n).id for n in (1, 2, 3)}


def test_a_line_that_a_crash_cut_off_spoils_nothing_but_itself(ledger: Ledger) -> None:
    ledger.record([trial(1), trial(2)])
    ledger.file.write_bytes(ledger.file.read_bytes()[:-20])
    ledger.record([trial(3)])
    assert ledger.trials() == [trial(1), trial(3)]


def test_related_trials_share_candles_by_content_or_by_file_and_time(ledger: Ledger) -> None:
    ours = trial(0, start=100, end=200)
    ledger.record(
        [
            ours,
            trial(1, start=150, end=300),  # overlaps in the same file
            trial(2, start=200, end=300),  # begins where ours ends
            trial(3, candles="other", stretch="other", start=100, end=200),
            trial(4, candles="longer file", start=5, end=6),  # the same candles in another file
            trial(5, stretch="other", start=0, end=101),
        ]
    )
    changed = [replace(one, stretch=f"{n}") if n in (1, 2) else one for n, one in enumerate(ledger.trials())]
    other = Ledger(ledger.file.with_name("second"))
    other.record(changed)
    assert [one.name[8] for one in other.related([ours])] == ["0", "1", "4", "5"]


def test_a_stretch_is_known_by_its_candles_alone(make_history: Callable[..., Candles]) -> None:
    candles = make_history(50)
    start, end = int(candles.open_time[10]), int(candles.open_time[20])
    longer = make_candles(candles.open_time[5:40], candles.values[5:40], interval="1h", source="part")
    assert stretch_digest(longer, start, end) == stretch_digest(candles, start, end)
    assert stretch_digest(candles, start, end + 1) != stretch_digest(candles, start, end)
    values = candles.values.copy()
    values[15, 4] += 1.0
    changed = make_candles(candles.open_time, values, interval="1h", source="changed")
    assert stretch_digest(changed, start, end) != stretch_digest(candles, start, end)


def write_many(file: Path, numbers: range) -> None:
    for number in numbers:
        Ledger(file).record([trial(number)])


def test_two_processes_at_once_lose_nothing_and_write_nothing_twice(ledger: Ledger) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_many, args=(ledger.file, part)) for part in (range(40), range(20, 60))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(ledger.file.read_bytes().splitlines()) == 60
    assert {one.id for one in ledger.trials()} == {trial(number).id for number in range(60)}


def test_a_disk_that_refuses_is_one_line(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="trial ledger cannot be written"):
        ledger.record([trial(1)])
    ledger = Ledger(tmp_path)  # a folder
    with pytest.raises(StoreError, match="trial ledger cannot be read"):
        ledger.trials()


def without_version(ledger: Ledger) -> None:
    """Rewrite every line as the first version wrote it."""
    lines = []
    for line in ledger.file.read_text().splitlines():
        tree = json.loads(line)["trial"]
        del tree["version"]
        lines.append(json.dumps({"checksum": _checksum(tree), "trial": tree}) + "\n")
    ledger.file.write_text("".join(lines))


def test_lines_of_the_first_version_are_read_and_count(ledger: Ledger) -> None:
    ledger.record([trial(1), trial(2)])
    without_version(ledger)
    assert ledger.trials() == [trial(1, version=1), trial(2, version=1)]
    assert ledger.related([trial(3)]) == ledger.trials()


@pytest.mark.parametrize("sharpe", [0.25, math.nan])
def test_a_trial_of_the_first_version_that_was_run_again_counts_once(ledger: Ledger, sharpe: float) -> None:
    old = [trial(1, sharpe=sharpe), trial(2)]
    ledger.record(old)
    without_version(ledger)
    again = trial(11, sharpe=sharpe, name="threshold@walk")
    assert ledger.record([again]) == 1
    assert [one.id for one in ledger.trials()] == [old[1].id, again.id]


def test_one_new_trial_stands_for_one_old_one_and_not_for_all_of_the_same_account(ledger: Ledger) -> None:
    ledger.record([trial(1, sharpe=0.5), trial(2, sharpe=0.5), trial(3, sharpe=0.5, stretch="other")])
    without_version(ledger)
    ledger.record([trial(4, sharpe=0.5)])
    assert [one.version for one in ledger.trials()] == [1, 1, VERSION]
    assert len({one.id for one in ledger.trials()}) == 3
