"""What is not a plain file is refused at once, wherever files of others are read; so is what exceeds a limit."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from btcbt.candles import read_candles, read_funding
from btcbt.config import load_config
from btcbt.config.yaml import MAX_NODES, read_yaml
from btcbt.errors import BtcbtError, ConfigError
from btcbt.files import is_being_written, open_regular, read_file, refusals_explained
from btcbt.metrics.regression import read_baseline
from btcbt.models.kronos.checkpoints.files import read_json
from btcbt.storage.forecasts import KEY_FILE, ForecastStore
from btcbt.storage.ledger import Ledger
from btcbt.storage.registrations import _read
from btcbt.storage.remote import LocalFolder
from btcbt.storage.runs import load_run
from btcbt.walkforward.trial_returns import _load
from btcbt.workflows.register import _runs

SECONDS = 5.0


@contextmanager
def in_time() -> Iterator[None]:
    """Fail, rather than wait for ever, where a reader waits."""

    def late(*_: object) -> None:
        pytest.fail(f"still reading after {SECONDS:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


READERS: dict[str, Callable[[Path], object]] = {
    "experiment": load_config,
    "baseline": read_baseline,
    "config.json": read_json,
    "candles": read_candles,
    "funding": read_funding,
    "registration": _read,
    "ledger": lambda path: Ledger(path).trials(),
    "shard": lambda path: LocalFolder(path.parent).read(path.name),
}


@pytest.mark.parametrize("make", [pipe, endless])
@pytest.mark.parametrize("reader", READERS)
def test_a_reader_refuses_what_is_not_a_plain_file(tmp_path: Path, reader: str, make: Callable[[Path], None]) -> None:
    path = tmp_path / "file.parquet"
    make(path)
    with in_time(), pytest.raises(BtcbtError, match=r"not a (regular )?file") as refused:
        READERS[reader](path)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("make", [pipe, endless])
def test_a_run_whose_manifest_is_no_plain_file_is_none(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "manifest.json")
    with in_time(), pytest.raises(BtcbtError, match="not a run"):
        load_run(tmp_path)


@pytest.mark.parametrize("make", [pipe, endless])
def test_a_note_of_the_store_and_a_manifest_in_its_folder_that_are_no_plain_files_hang_nothing(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    store = ForecastStore(tmp_path / "key", "key", n_paths=2, horizon=3)
    store.folder.mkdir()
    make(store.folder / KEY_FILE)
    (tmp_path / "name" / "digest").mkdir(parents=True)
    make(tmp_path / "name" / "digest" / "manifest.json")
    with in_time():
        store.describe({"a": 1})  # replaced, as a damaged one is
        assert list(_runs(tmp_path, 3_600_000)) == []
    assert (store.folder / KEY_FILE).is_file()


def test_a_pipe_is_no_ledger_to_append_to_and_no_unfinished_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with in_time():
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(tmp_path / "pipe", "ab+")
        assert is_being_written(tmp_path / "pipe")


def test_exactly_the_limit_is_read_and_no_byte_more(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert read_file(path, 100) == b"x" * 100
    with pytest.raises(OSError, match="larger than 99 bytes"):
        read_file(path, 99)
    with path.open("ab") as file:
        file.truncate(1 << 42)  # sparse: reading it would take all memory
    with in_time(), pytest.raises(OSError, match="larger than 100 bytes"):
        read_file(path, 100)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no files of unknown size here")
def test_files_of_unknown_size_are_read_up_to_the_limit() -> None:
    content = read_file(Path("/proc/self/stat"), 1 << 16)
    assert content.endswith(b"\n")
    with pytest.raises(OSError, match="larger than 10 bytes"):
        read_file(Path("/proc/self/stat"), 10)


def test_an_array_is_read_only_if_its_header_is_the_expected_one(tmp_path: Path) -> None:
    path, values = tmp_path / "a.npy", np.linspace(0.0, 1.0, 7)
    np.save(path, values)
    np.testing.assert_array_equal(_load(path, (7,)), values)
    whole = path.read_bytes()
    claimed = whole.replace(b"(7,), }" + b" " * 12, b"(999999999999,), }" + b" ")
    assert claimed != whole
    assert len(claimed) == len(whole)
    for content in (claimed, whole[:-1], whole + b"x", whole.replace(b"<f8", b"<i8"), b"\x93NUMPY"):
        path.write_bytes(content)
        assert _load(path, (7,)) is None


@pytest.mark.parametrize("text", ["a: [" + "1," * 120_000 + "]", "".join(f"k{i}: 1\n" for i in range(23_000))])
def test_a_flat_experiment_of_many_values_is_refused_at_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "flat.yaml"
    path.write_text(text)
    line = 1 if text.startswith("a") else MAX_NODES // 2
    with in_time(), pytest.raises(ConfigError, match=rf"flat.yaml:{line}: more than 5,000 keys and values"):
        read_yaml(path)


def test_a_number_too_long_to_be_written_out_is_named(tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    path.write_text("windows:\n  horizon: 0x" + "f" * 4000)
    with pytest.raises(ConfigError, match=r"long\.yaml:"):
        load_config(path)


LEDGER_LINE = {
    "id": "f" * 32,
    "name": "a@b",
    "experiment": "x",
    "candles": "c",
    "stretch": "s",
    "start": 0,
    "end": 1000,
    "sharpe": 0.1,
    "n": 5,
    "skew": 0.0,
    "kurtosis": 3.0,
    "version": 2,
    "configuration": "",
    "gross_sharpe": None,
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id", ["a"]),
        ("stretch", {}),
        ("start", "x"),
        ("end", True),
        ("end", -1),
        ("start", -(10**40)),
        ("n", -5),
        ("n", 2.5),
        ("n", 10**30),
        ("sharpe", 1e308),
        ("sharpe", 10**400),
        ("name", 7),
    ],
)
def test_a_ledger_line_with_absurd_content_is_named_and_not_counted(
    tmp_path: Path, key: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    def line(trial: dict[str, object]) -> str:
        text = json.dumps(trial, sort_keys=True, separators=(",", ":"))
        return json.dumps({"checksum": hashlib.blake2b(text.encode(), digest_size=8).hexdigest(), "trial": trial})

    file = tmp_path / "trials.jsonl"
    file.write_text(f"{line(LEDGER_LINE)}\n{line({**LEDGER_LINE, 'id': 'e' * 32, key: value})}\n")
    assert [trial.id for trial in Ledger(file).trials()] == ["f" * 32]
    assert "trials.jsonl:2: damaged line" in caplog.text


@pytest.mark.parametrize("place", ["~/runs", "~"])
def test_a_home_folder_is_that_of_the_user(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from btcbt.config.experiment import StoreConfig, store_root

    monkeypatch.setenv("HOME", str(tmp_path))
    assert StoreConfig(root=place).folder == Path(place.replace("~", str(tmp_path)))
    with pytest.raises(ConfigError, match="home of somebody unknown"):
        store_root("~nobody-of-that-name/runs")


@pytest.mark.parametrize("place", ["c" * 300, "a/" + "c" * 300, "m" * 300 + ".py:S", "é" * 130])
def test_names_that_no_file_system_takes_are_refused_in_the_experiment(place: str) -> None:
    from pydantic import ValidationError

    from btcbt.config.experiment import CandlesConfig, StrategyConfig

    section = {"use": place} if place.endswith(":S") else {"path": place}
    with pytest.raises(ValidationError, match="at most 240 bytes"):
        (StrategyConfig if "use" in section else CandlesConfig).model_validate(section)


def test_what_a_file_system_refuses_is_explained_and_other_errors_are_not() -> None:
    full = r"/runs: cannot be read or written \(No space left on device\); make room"
    with pytest.raises(BtcbtError, match=full), refusals_explained(Path("/runs")):
        raise OSError(28, os.strerror(28))
    with pytest.raises(FileNotFoundError), refusals_explained():
        raise FileNotFoundError(2, "No such file or directory", "x")
