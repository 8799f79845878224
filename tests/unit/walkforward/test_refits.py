"""Refits inside the walk-forward, with a tiny pair of networks on the bundled candles."""

from __future__ import annotations

import dataclasses
import io
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from btcbt import run
from btcbt.candles import read_candles, write_candles
from btcbt.config import RunConfig
from btcbt.errors import CandleError, CheckpointError, StoreError
from btcbt.models.kronos.training.state import FIT_FILE, STATE_FILE
from btcbt.records import Candles, DataRange
from btcbt.storage.runs import Run
from btcbt.walkforward import refits
from btcbt.walkforward.refits import Refitter, candles_digest, make_refitter
from btcbt.windows import contamination, plan_refits
from tests.tiny_kronos import save_tiny

HOUR = 3_600_000
JUNE = 1_559_347_200_000  # 2019-06-01T00:00Z
SCHEDULE = {"every": "24h", "train_window": "240h", "select_window": "72h", "steps": 3, "batch_size": 2}
SCHEDULE |= {"learning_rate": 3e-3, "dropout": 0.1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"), (DataRange("pretraining", 0, JUNE - 100 * HOUR),))


def experiment(
    root: Path, checkpoint: Path, *, end: str = "2019-06-03", refit: dict[str, Any] | None = None
) -> RunConfig:
    kronos = {"kind": "kronos", "checkpoint": str(checkpoint), "n_paths": 2, "device": "cpu"}
    tree = {
        "name": "refits",
        "candles": {"path": "bundled:BTCUSD_1h"},
        "windows": {"context": 20, "horizon": 4, "start": "2019-06-01", "end": end},
        "forecasters": {"frozen": kronos, "monthly": kronos | {"refit": SCHEDULE if refit is None else refit}},
        "store": {"root": str(root)},
    }
    return RunConfig.model_validate(tree, strict=False)


def refitter(config: RunConfig, candles: Candles | None = None) -> Refitter:
    from btcbt.forecasters import create_forecaster

    part = config.forecasters["monthly"]
    frozen = create_forecaster(part.without_refit(), config.windows, config.seed)
    made = make_refitter(part, config, candles or read_candles("bundled:BTCUSD_1h"), frozen)
    assert made is not None
    return made


@pytest.fixture(scope="module")
def done(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Run]:
    config = experiment(tmp_path_factory.mktemp("root"), checkpoint)
    return config, run(config)


def test_frozen_and_refitted_differ_by_their_weights_alone(done: tuple[RunConfig, Run]) -> None:
    from btcbt.config import KronosConfig
    from btcbt.forecasters import create_forecaster
    from btcbt.windows import make_windows

    config, finished = done
    entries = finished.manifest["forecasters"]["monthly"]["refits"]
    assert [entry["serves"][0] for entry in entries] == ["2019-06-01T00:00Z", "2019-06-02T00:00Z"]
    windows = make_windows(read_candles("bundled:BTCUSD_1h"), config.windows)
    paths = finished.forecasts("monthly").paths()
    assert not np.array_equal(paths, finished.forecasts("frozen").paths())
    part = config.forecasters["frozen"]
    assert isinstance(part, KronosConfig)
    for number, entry in enumerate(entries):
        folder = config.store.folder / "store" / "refits" / entry["key"]
        same = create_forecaster(part.model_copy(update={"checkpoint": str(folder)}), config.windows, config.seed)
        rows = slice(24 * number, 24 * number + 24)
        np.testing.assert_array_equal(same.forecast(windows[rows]).paths[:16], paths[rows][:16])
    assert entries[0]["weights"] != entries[1]["weights"]
    assert [len(entry["selection_losses"]) for entry in entries] == [4, 4]  # before the first step and after each


def test_an_experiment_run_again_or_for_longer_uses_the_refits_and_forecasts_that_are_there(
    done: tuple[RunConfig, Run], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, finished = done
    fitted: list[str] = []
    finetune = refits.finetune
    monkeypatch.setattr(refits, "finetune", lambda *a: fitted.append(a[1].output) or finetune(*a))
    again = run(config, force=True)
    assert not fitted
    assert again.manifest["forecasters"]["monthly"]["computed"] == 0
    longer = run(experiment(config.store.folder, checkpoint, end="2019-06-04"))
    assert len(fitted) == 1
    entry, before = (one.manifest["forecasters"]["monthly"] for one in (longer, finished))
    assert entry["refits"][:2] == before["refits"]
    assert entry["key"] == before["key"]
    assert (entry["computed"], entry["reused"]) == (24, 48)
    np.testing.assert_array_equal(longer.forecasts("monthly").paths(0, 48), finished.forecasts("monthly").paths())


def test_each_origin_is_labelled_by_the_ranges_of_its_own_refit(done: tuple[RunConfig, Run]) -> None:
    _, finished = done
    assert finished.manifest["forecasters"]["monthly"]["labels"] == {"clean": 48}
    first, second = (entry["looked_at"] for entry in finished.manifest["forecasters"]["monthly"]["refits"])
    # 24 candles of embargo before the origins, 72 to select on, 24 of embargo again, 240 to fit on.
    assert first == [
        ["pretraining", "1970-01-01T00:00Z", "2019-05-27T20:00Z"],
        ["finetuning", "2019-05-17T00:00Z", "2019-05-27T00:00Z"],
        ["selection", "2019-05-28T00:00Z", "2019-05-31T00:00Z"],
    ]
    assert second[1:] == [
        ["finetuning", "2019-05-18T00:00Z", "2019-05-28T00:00Z"],
        ["selection", "2019-05-29T00:00Z", "2019-06-01T00:00Z"],
    ]


def test_weights_that_saw_later_candles_than_an_origin_make_it_seen_or_selected_on(
    checkpoint: Path, tmp_path: Path
) -> None:
    late = tmp_path / "late"
    shutil.copytree(checkpoint, late)
    from btcbt.models.kronos.checkpoints.files import write_data_ranges

    ranges = (DataRange("pretraining", 0, JUNE + 10 * HOUR), DataRange("selection", 0, JUNE + 30 * HOUR))
    for folder in (late, late / "model", late / "tokenizer"):
        write_data_ranges(folder, ranges)
    finished = run(experiment(tmp_path / "runs", late))
    assert finished.manifest["forecasters"]["monthly"]["labels"] == {"seen": 10, "selected-on": 20, "clean": 18}


def test_what_is_declared_of_starting_weights_later_holds_for_stored_refits(checkpoint: Path, tmp_path: Path) -> None:
    from btcbt.models.kronos.checkpoints.files import write_data_ranges

    start = shutil.copytree(checkpoint, tmp_path / "start")
    config = experiment(tmp_path / "runs", start)
    before = refitter(config).fit(0)
    looked_at = DataRange("looked_at", 0, JUNE + 30 * HOUR)
    for folder in (start, start / "model", start / "tokenizer"):
        write_data_ranges(folder, (DataRange("pretraining", 0, JUNE - 100 * HOUR), looked_at))
    after = refitter(config).fit(0)
    assert (after.key, after.weights) == (before.key, before.weights)
    assert before.ranges is not None
    assert after.ranges == (before.ranges[0], looked_at, *before.ranges[1:])


def test_a_corrected_candle_makes_the_refits_that_saw_it_anew_and_no_other(done: tuple[RunConfig, Run]) -> None:
    config, _ = done
    candles = read_candles("bundled:BTCUSD_1h")
    values = candles.values.copy()
    row = int(np.searchsorted(candles.open_time, JUNE - 20 * HOUR))  # in the second one's selection range alone
    values[row] *= 1.001
    changed = Candles(candles.open_time, values, candles.interval_ms, candles.source, "changed")
    keys = [[refitter(config, one).key(number) for number in range(2)] for one in (candles, changed)]
    assert keys[0][0] == keys[1][0]
    assert keys[0][1] != keys[1][1]


def test_workers_that_outlive_a_run_do_not_keep_its_refits_for_the_next(checkpoint: Path, tmp_path: Path) -> None:
    candles = read_candles("bundled:BTCUSD_1h")
    values = candles.values.copy()
    rows = slice(*np.searchsorted(candles.open_time, [JUNE - 250 * HOUR, JUNE - 150 * HOUR]))
    values[rows] *= 1.0 + 0.2 * np.sin(np.arange(100))[:, None]  # trained on, and in no window
    values[rows, 1], values[rows, 2] = values[rows, :4].max(1), values[rows, :4].min(1)
    write_candles(candles, tmp_path / "one.parquet")
    write_candles(
        Candles(candles.open_time, values, candles.interval_ms, candles.source, "changed"), tmp_path / "two.parquet"
    )

    def paths(history: str, root: str, executor: dict[str, Any]) -> Any:
        tree = experiment(tmp_path / root, checkpoint).model_dump(mode="json")
        tree |= {"candles": {"path": str(tmp_path / history)}, "executor": executor}
        finished = run(RunConfig.model_validate(tree, strict=False))
        (entry,) = {refit["weights"] for refit in finished.manifest["forecasters"]["monthly"]["refits"][:1]}
        return finished.forecasts("monthly").paths(), entry

    workers = {"kind": "joblib", "workers": 1}
    one, one_weights = paths("one.parquet", "shared", workers)
    two, two_weights = paths("two.parquet", "shared", workers)  # only what is refitted is computed again
    alone, alone_weights = paths("two.parquet", "alone", {"kind": "local", "workers": 1})
    assert one_weights != two_weights == alone_weights
    np.testing.assert_array_equal(two, alone)
    assert not np.array_equal(one, two)


def test_a_key_tells_apart_all_that_a_refit_is_made_from_and_nothing_else(checkpoint: Path, tmp_path: Path) -> None:
    def key(root: str = "a", **changes: Any) -> str:
        return refitter(experiment(tmp_path / root, checkpoint, refit=SCHEDULE | changes)).key(0)

    assert key() == key("b") == key(every="48h")  # when the next one comes does not matter to the first
    others = [
        {"steps": 4}, {"learning_rate": 1e-3}, {"seed": 1}, {"train_window": "216h"}, {"embargo": "30h"},
        {"select_window": "96h"}, {"tokenizer_steps": 1}, {"mirror": True}, {"dropout": 0.2}, {"batch_size": 3},
    ]  # fmt: skip
    assert len({key(), *(key(**change) for change in others)}) == 1 + len(others)


def test_what_a_fit_is_given_holds_no_candle_after_its_ranges(done: tuple[RunConfig, Run]) -> None:
    config, _ = done
    made = refitter(config)
    for period in made.periods:
        assert period.candles.open_time[-1] + HOUR <= period.select[1] == period.start - 24 * HOUR
        copy = refits._copy(period.candles)
        assert copy.values.base is None
        assert copy.open_time.base is None
        assert candles_digest(copy) == candles_digest(period.candles)


def test_a_cumulative_schedule_goes_on_from_the_refit_before(checkpoint: Path, tmp_path: Path) -> None:
    made = refitter(experiment(tmp_path, checkpoint, refit=SCHEDULE | {"cumulative": True}))
    first, second = made.fit(0), made.fit(1)
    recipe = json.loads((Path(second.folder) / "recipe.json").read_text())
    assert recipe["start"]["model"] == first.key  # of its folder the name alone
    assert second.ranges is not None
    assert first.ranges is not None
    assert set(first.ranges) < set(second.ranges)
    alone = refitter(experiment(tmp_path, checkpoint))
    assert alone.key(0) == made.key(0)
    assert alone.key(1) != made.key(1)


def test_without_every_there_is_one_refit_for_good(checkpoint: Path, tmp_path: Path) -> None:
    once = {key: value for key, value in SCHEDULE.items() if key != "every"}
    made = refitter(experiment(tmp_path, checkpoint, end="2019-09-01", refit=once))
    assert len(made.periods) == 1
    assert made.number(JUNE) == made.number(JUNE + 91 * 24 * HOUR) == 0
    assert made.key(0) == refitter(experiment(tmp_path, checkpoint)).key(0)


def test_epochs_are_counted_in_training_windows(checkpoint: Path, tmp_path: Path) -> None:
    schedule = {key: value for key, value in SCHEDULE.items() if key != "steps"} | {"epochs": 0.5, "batch_size": 8}
    made = refitter(experiment(tmp_path, checkpoint, refit=schedule))
    recipe = made._recipe(0, made._starting_weights(0), tmp_path)
    period = made.periods[0]
    inside = period.candles.open_time[period.candles.open_time < period.train[1]]
    windows = sum(inside[i + 23] - inside[i] == 23 * HOUR for i in range(len(inside) - 23))
    assert recipe.model.steps == -(-windows // 16)


def test_calendar_tables_that_were_never_trained_stay_zero(checkpoint: Path, tmp_path: Path) -> None:
    import torch

    from btcbt.models.kronos import Kronos

    folder = tmp_path / "hours"
    shutil.copytree(checkpoint, folder)
    model = Kronos.from_pretrained(folder / "model")
    with torch.no_grad():
        for table in (model.time_emb.tables()[0], model.time_emb.tables()[4]):
            table.zero_()
    model.save_pretrained(folder / "model")
    made = refitter(experiment(tmp_path / "runs", folder))
    assert made.frozen.calendar == ("hour", "weekday", "day")
    refitted = Kronos.from_pretrained(Path(made.fit(0).folder) / "model").time_emb.tables()
    assert [bool(table.any()) for table in refitted] == [False, True, True, True, False]
    whole = refitter(experiment(tmp_path / "runs", checkpoint)).frozen
    assert whole.calendar == ("minute", "hour", "weekday", "day", "month")


def test_a_damaged_refit_is_made_again_with_a_warning(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = experiment(tmp_path, checkpoint)
    first = refitter(config).fit(0)
    weights = Path(first.folder) / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    assert refitter(config).fit(0) == first
    assert "; refitting" in caplog.text


def test_too_few_candles_are_said_before_anything_is_fitted(checkpoint: Path, tmp_path: Path) -> None:
    for change, says in (
        ({"train_window": "99999h"}, r"needs candles from 2007-.* but the history begins 2017-10-01T00:00Z; shorten"),
        ({"train_window": "36525d", "embargo": "36525d"}, "needs candles from 1719-.* but the history begins"),
        (
            {"select_window": "20h"},
            r"no 24 contiguous candles in 2019-05-30T04:00Z .. 2019-05-31T00:00Z; lengthen refit.s",
        ),
        ({"train_window": "10h"}, r"no 24 contiguous candles .* lengthen refit.train_window"),
    ):
        config = experiment(tmp_path / "runs", checkpoint, refit=SCHEDULE | change)
        with pytest.raises(CandleError, match=says):
            run(config)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"every": "90m"}, "refit.every 90m is not a whole number of 1h candles"),
        ({"every": "0h"}, "refit.every 0h is not a whole number"),
        ({"every": "9999999d"}, "a duration of at most 100 years"),
        ({"train_window": "36526d"}, "a duration of at most 100 years"),
        ({"batch_size": 10**11}, "less than or equal to 65536"),
        ({"every": "a month"}, "a duration such as 720h or 30d"),
        ({"epochs": 2.0}, "give either 'steps' or 'epochs'"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"step": 2}, "Extra inputs"),
    ],
)
def test_a_wrong_schedule_is_refused(checkpoint: Path, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        experiment(tmp_path, checkpoint, refit=SCHEDULE | change)


def fit_first(tree: str) -> None:
    """In a process of its own."""
    refitter(RunConfig.model_validate_json(tree)).fit(0)


def test_a_refit_whose_process_was_killed_comes_out_the_same(checkpoint: Path, tmp_path: Path) -> None:
    schedule = SCHEDULE | {"steps": 60, "select_every": 6}
    config = experiment(tmp_path / "killed", checkpoint, refit=schedule)
    folder = config.store.folder / "store" / "refits"
    process = multiprocessing.get_context("spawn").Process(target=fit_first, args=(config.model_dump_json(),))
    process.start()
    while process.is_alive() and not list(folder.glob(f".*.tmp/{STATE_FILE}")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == []
    after = refitter(config).fit(0)
    whole = refitter(experiment(tmp_path / "whole", checkpoint, refit=schedule)).fit(0)
    assert (after.key, after.weights) == (whole.key, whole.weights)
    assert [path.name for path in folder.iterdir()] == [after.key]


def interrupted(made: Refitter) -> Path:
    """What an interrupt at the second step of its first fit leaves behind."""
    looks: list[str] = []

    def report(line: str) -> None:
        looks.extend([line] if " select " in line else [])
        if len(looks) == 3:
            raise KeyboardInterrupt

    made.report = report
    with pytest.raises(KeyboardInterrupt):
        made.fit(0)
    (left,) = made.folder.iterdir()  # and no lock
    assert (left / STATE_FILE).is_file()
    return left


def test_a_stopped_refit_goes_on_when_the_candles_file_has_another_name(checkpoint: Path, tmp_path: Path) -> None:
    config, candles = experiment(tmp_path / "stopped", checkpoint), read_candles("bundled:BTCUSD_1h")
    interrupted(refitter(config))
    renamed = refitter(config, dataclasses.replace(candles, source="renamed.parquet"))
    lines: list[str] = []
    renamed.report = lines.append
    whole = refitter(experiment(tmp_path / "whole", checkpoint)).fit(0)
    assert (renamed.fit(0).key, renamed.fit(0).weights) == (whole.key, whole.weights)
    assert "resumed from step 1" in lines


def test_what_a_foreign_fit_left_is_begun_anew(checkpoint: Path, tmp_path: Path) -> None:
    config = experiment(tmp_path / "stopped", checkpoint)
    left = interrupted(refitter(config))
    (left / FIT_FILE).write_text('{"digest": "of an earlier version", "finished": []}')
    assert refitter(config).fit(0).weights == refitter(experiment(tmp_path / "whole", checkpoint)).fit(0).weights


def test_refits_that_cannot_be_kept_are_an_error_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    made = refitter(experiment(tmp_path / "file", checkpoint))
    with pytest.raises(
        StoreError, match=r"file/store/refits: refits cannot be stored there \(Not a directory\); make room"
    ):
        made.fit(0)


def test_the_shortest_window_can_be_refitted(checkpoint: Path, tmp_path: Path) -> None:
    tree = experiment(tmp_path, checkpoint).model_dump(mode="json")
    tree["windows"] |= {"context": 2, "horizon": 1}
    assert refitter(RunConfig.model_validate(tree, strict=False)).fit(0).weights


def test_those_who_wait_for_a_refit_that_fails_still_fit_it_once(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    config = experiment(tmp_path, checkpoint)
    running: list[int] = []
    most: list[int] = []
    finetune = refits.finetune

    def fails_first(*arguments: Any) -> Path:
        running.append(1)
        most.append(len(running))
        time.sleep(0.3)
        try:
            if len(most) == 1:
                raise CheckpointError("the loss is nan")
            return finetune(*arguments)
        finally:
            running.pop()

    def fit(one: Refitter) -> str | None:
        try:
            return one.fit(0).weights
        except CheckpointError:
            return None

    monkeypatch.setattr(refits, "finetune", fails_first)
    with ThreadPoolExecutor(3) as pool:
        weights = list(pool.map(fit, [refitter(config) for _ in range(3)]))
    assert weights.count(None) == 1
    assert len(set(weights)) == 2
    assert most == [1, 1]
    assert [path.name for path in (tmp_path / "store" / "refits").iterdir()] == [refitter(config).key(0)]


def test_a_lock_that_a_killed_process_left_is_known_to_be_temporary(checkpoint: Path, tmp_path: Path) -> None:
    from btcbt.files import TEMPORARY

    target = tmp_path / refitter(experiment(tmp_path, checkpoint)).key(0)
    with refits._locked(target):
        (lock,) = (path.name for path in tmp_path.iterdir())
    assert TEMPORARY.fullmatch(lock)
    assert not list(tmp_path.iterdir())


def test_two_processes_that_want_the_same_refit_fit_it_once(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    config = experiment(tmp_path, checkpoint)
    fitted: list[str] = []
    finetune = refits.finetune

    def slowly(*arguments: Any) -> Path:
        fitted.append("once")
        time.sleep(0.2)
        return finetune(*arguments)

    monkeypatch.setattr(refits, "finetune", slowly)
    both = [refitter(config), refitter(config)]
    with ThreadPoolExecutor(2) as pool:  # a lock on an open file holds between threads as between processes
        first, second = pool.map(lambda one: one.fit(0), both)
    assert first == second
    assert fitted == ["once"]


def test_periods_begin_at_the_first_origin_asked_for_whether_or_not_it_is_eligible(
    checkpoint: Path, tmp_path: Path
) -> None:
    config = experiment(tmp_path, checkpoint)
    windows, candles = config.windows, read_candles("bundled:BTCUSD_1h")
    part = config.forecasters["monthly"].refit  # type: ignore[union-attr]
    assert part is not None
    starts = [period.start for period in plan_refits(candles, windows, part)]
    assert starts == [JUNE, JUNE + 24 * HOUR]
    gap = np.ones(len(candles), dtype=bool)
    row = int(np.searchsorted(candles.open_time, JUNE - HOUR))
    gap[row] = False
    holed = Candles(candles.open_time[gap], candles.values[gap], candles.interval_ms)
    assert [period.start for period in plan_refits(holed, windows, part)] == starts
    for period in plan_refits(candles, windows, part):
        ranges = [DataRange("finetuning", *period.train), DataRange("selection", *period.select)]
        assert contamination(np.array([period.start]), ranges).tolist() == ["clean"]


def test_frozen_and_refitted_are_compared_by_a_paired_test_with_its_interval(done: tuple[RunConfig, Run]) -> None:
    from rich.console import Console

    from btcbt.report.summary import summary

    _, finished = done
    key = "forecast.monthly.against.frozen.crps_bps.close.h4"
    ours, theirs = (finished.metrics[f"forecast.{name}.crps_bps.close.h4"] for name in ("monthly", "frozen"))
    assert finished.metrics[f"{key}.difference"] == pytest.approx(ours - theirs)
    assert finished.metrics[f"{key}.skill"] == pytest.approx(1 - ours / theirs)
    assert finished.metrics[f"{key}.low"] < ours - theirs < finished.metrics[f"{key}.high"]
    assert 0 < finished.metrics[f"{key}.dm_p"] <= 1
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(summary(finished))
    row = next(line for line in console.export_text().splitlines() if line.startswith("monthly") and "frozen" in line)
    assert f"{ours - theirs:+.2f}" in row
    assert row.split()[2] == "2"  # refits


def test_a_refit_has_a_card_and_could_be_pushed(done: tuple[RunConfig, Run]) -> None:
    from btcbt.workflows.publish import uploadable

    config, finished = done
    entry = finished.manifest["forecasters"]["monthly"]["refits"][0]
    folder = config.store.folder / "store" / "refits" / entry["key"]
    names = uploadable(folder)
    assert {"README.md", "data_ranges.json", "recipe.json", "model/model.safetensors"} <= set(names)
    assert not {"fit.json", "refit.json"} & set(names)
    assert "| `finetuning` | 2019-05-17T00:00Z | 2019-05-27T00:00Z |" in (folder / "README.md").read_text()


def test_what_builds_a_refitted_forecaster_can_be_sent_to_another_process(done: tuple[RunConfig, Run]) -> None:
    from functools import partial
    from multiprocessing.reduction import ForkingPickler

    from btcbt.forecasters import create_forecaster
    from btcbt.progress import Progress
    from btcbt.windows import make_windows

    config, finished = done
    windows = make_windows(read_candles("bundled:BTCUSD_1h"), config.windows)
    served = refits.make_refits("monthly", refitter(config), windows.origins, Progress())
    build = partial(create_forecaster, config.forecasters["monthly"], config.windows, config.seed, None, served)
    there = ForkingPickler.loads(ForkingPickler.dumps(build))()
    paths = finished.forecasts("monthly").paths()
    np.testing.assert_array_equal(there.forecast(windows[16:32]).paths[:8], paths[16:24])
    with pytest.raises(ValueError, match="no refit serves 2019-06-03T00:00Z"):
        served(JUNE + 48 * HOUR)
    with pytest.raises(ValueError, match="no refit serves"):
        served(JUNE - 1)


def test_calibration_follows_the_refits_of_its_base(checkpoint: Path, tmp_path: Path) -> None:
    config = experiment(tmp_path, checkpoint)
    tree = config.model_dump(mode="json")
    tree["forecasters"]["learns"] = {"kind": "calibrated", "base": "monthly"}
    finished = run(RunConfig.model_validate(tree, strict=False))
    entry = finished.manifest["forecasters"]["learns"]
    assert entry["refits"] == finished.manifest["forecasters"]["monthly"]["refits"]
    assert entry["digests"] == "history.learns"
    digests = finished.digests()
    assert not digests["history.learns"].equals(digests["refit.monthly"])
