"""Forecasts on disk: what comes back, what is refused, and what is never half there."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from btcbt.errors import StoreError
from btcbt.files import write_whole
from btcbt.records import ForecastBatch, Window
from btcbt.storage import forecasts as store_module
from btcbt.storage.forecasts import (
    DIGEST_BYTES,
    Digests,
    ForecastStore,
    ShardPlan,
    ShardWriter,
    forecast_key,
    window_digests,
)

S, H = 3, 4
HOUR = 3_600_000
KEY = "a" * 64
MakeWindows = Callable[..., list[Window]]


@pytest.fixture
def store(tmp_path: Path) -> ForecastStore:
    return ForecastStore(tmp_path / "store", KEY, n_paths=S, horizon=H)


def forecasts(rng: np.random.Generator, n: int, first: int = 0) -> tuple[Digests, ForecastBatch]:
    """Rows for the hours first .. first + n."""
    origins = HOUR * np.arange(first, first + n, dtype=np.int64)
    digests = np.frombuffer(rng.bytes(n * DIGEST_BYTES), dtype=f"V{DIGEST_BYTES}")
    paths = rng.normal(size=(n, S, H, 6)).astype(np.float32)
    return digests, ForecastBatch(origins, paths, {"device": "cpu"})


def test_what_was_written_is_read_bit_for_bit(store: ForecastStore, rng: np.random.Generator) -> None:
    digests, batch = forecasts(rng, 10)
    path = store.write(digests, batch)
    assert path.name.startswith(f"0-{9 * HOUR}-")
    plan = store.plan(batch.origins, digests)
    assert len(plan.missing) == 0
    parts = list(store.read(plan, batch.origins, 4))
    assert [len(part) for part in parts] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([part.paths for part in parts]), batch.paths)
    np.testing.assert_array_equal(np.concatenate([part.origins for part in parts]), batch.origins)
    assert parts[0].provenance == {"device": "cpu"}
    assert not parts[0].paths.flags.writeable


def test_an_empty_store_lacks_everything(store: ForecastStore, rng: np.random.Generator) -> None:
    digests, batch = forecasts(rng, 3)
    plan = store.plan(batch.origins, digests)
    assert plan.missing.tolist() == [0, 1, 2]
    with pytest.raises(StoreError, match="3 of 3 forecasts are missing"):
        next(store.read(plan, batch.origins, 2))


def test_equal_forecasts_make_equal_files(store: ForecastStore, rng: np.random.Generator) -> None:
    digests, batch = forecasts(rng, 5)
    first = store.write(digests, batch)
    content = first.read_bytes()
    assert store.write(digests, batch) == first
    assert first.read_bytes() == content
    assert len(store.shards()) == 1


def test_overlapping_experiments_share_rows(store: ForecastStore, rng: np.random.Generator) -> None:
    digests, batch = forecasts(rng, 12)
    for rows in (slice(0, 5), slice(5, 8)):
        store.write(digests[rows], ForecastBatch(batch.origins[rows], batch.paths[rows]))
    plan = store.plan(batch.origins[3:], digests[3:])
    assert plan.missing.tolist() == [5, 6, 7, 8]
    store.write(digests[8:], ForecastBatch(batch.origins[8:], batch.paths[8:]))
    plan = store.plan(batch.origins[3:], digests[3:])
    read = np.concatenate([part.paths for part in store.read(plan, batch.origins[3:], 100)])
    np.testing.assert_array_equal(read, batch.paths[3:])


def test_interleaved_shards_are_read_in_order_of_time(store: ForecastStore, rng: np.random.Generator) -> None:
    digests, batch = forecasts(rng, 20)
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        store.write(digests[rows], ForecastBatch(batch.origins[rows], batch.paths[rows]))
    plan = store.plan(batch.origins, digests)
    read = np.concatenate([part.paths for part in store.read(plan, batch.origins, 6)])
    np.testing.assert_array_equal(read, batch.paths)


def test_a_shard_is_read_once_however_small_the_batch(
    store: ForecastStore, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests, batch = forecasts(rng, 20)
    for rows in (slice(0, 10), slice(10, 20)):
        store.write(digests[rows], ForecastBatch(batch.origins[rows], batch.paths[rows]))
    plan = store.plan(batch.origins, digests)
    reads: list[str] = []
    original = store_module.read_file
    monkeypatch.setattr(store_module, "read_file", lambda path, limit: reads.append(path.name) or original(path, limit))
    list(store.read(plan, batch.origins, 3))
    assert len(reads) == 2


def test_a_changed_candle_asks_for_the_forecast_again(store: ForecastStore, rng: np.random.Generator) -> None:
    digests, batch = forecasts(rng, 6)
    store.write(digests, batch)
    changed = digests.copy()
    changed[2] = np.void(b"x" * DIGEST_BYTES)
    plan = store.plan(batch.origins, changed)
    assert plan.missing.tolist() == [2]
    store.write(changed[2:3], ForecastBatch(batch.origins[2:3], batch.paths[2:3] + 1))
    for wanted, expected in ((changed, batch.paths[2] + 1), (digests, batch.paths[2])):
        plan = store.plan(batch.origins, wanted)
        read = next(store.read(plan, batch.origins, 6)).paths
        np.testing.assert_array_equal(read[2], expected)


def test_every_flipped_byte_is_found_out(
    store: ForecastStore, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    digests, batch = forecasts(rng, 2)
    path = store.write(digests, batch)
    content = path.read_bytes()
    for place in rng.choice(len(content), size=200, replace=False):
        broken = bytearray(content)
        broken[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        caplog.clear()
        assert store.plan(batch.origins, digests).missing.tolist() == [0, 1]
        assert f"{path} is damaged" in caplog.text


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_truncated_shard_is_named_and_not_used(
    store: ForecastStore, rng: np.random.Generator, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    digests, batch = forecasts(rng, 4)
    path = store.write(digests, batch)
    path.write_bytes(path.read_bytes()[:length])
    assert len(store.plan(batch.origins, digests).missing) == 4
    assert f"{path} is damaged" in caplog.text
    assert store.write(digests, batch) == path  # computed again, it takes the place of the damaged one
    assert len(store.plan(batch.origins, digests).missing) == 0


def test_the_forecasts_of_another_forecaster_are_foreign(
    store: ForecastStore, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    digests, batch = forecasts(rng, 4)
    other = ForecastStore(store.folder, "b" * 64, n_paths=S, horizon=H)
    path = other.write(digests, batch)
    assert len(store.plan(batch.origins, digests).missing) == 4
    assert f"{path} is foreign" in caplog.text


def test_any_parquet_with_a_right_checksum_is_still_foreign(
    store: ForecastStore, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    digests, batch = forecasts(rng, 2)
    store.write(digests, batch)
    content = b"not a parquet file"
    checksum = store_module._checksum(content)
    (store.folder / f"0-{HOUR}-{checksum}.parquet").write_bytes(content)
    assert len(store.plan(batch.origins, digests).missing) == 0
    assert "is not a shard of forecasts" in caplog.text


def test_a_file_with_another_name_is_left_alone_and_named(
    store: ForecastStore, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    digests, batch = forecasts(rng, 2)
    path = store.write(digests, batch)
    stranger = path.rename(path.with_name("renamed.parquet"))
    assert store.plan(batch.origins, digests).missing.tolist() == [0, 1]
    assert f"{stranger} is not named like a shard" in caplog.text
    assert stranger.exists()


def test_a_file_that_changes_after_the_plan_is_not_used(store: ForecastStore, rng: np.random.Generator) -> None:
    digests, batch = forecasts(rng, 2)
    path = store.write(digests, batch)
    plan = store.plan(batch.origins, digests)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match="is damaged"):
        next(store.read(plan, batch.origins, 2))


def test_only_files_of_the_asked_range_are_opened(
    store: ForecastStore, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for first in (0, 100, 200):
        store.write(*forecasts(rng, 5, first))
    opened: list[str] = []
    original = store_module.read_file
    monkeypatch.setattr(
        store_module, "read_file", lambda path, limit: opened.append(path.name) or original(path, limit)
    )
    digests, batch = forecasts(rng, 5, 100)
    store.plan(batch.origins, digests)
    assert [name.split("-")[0] for name in opened] == [str(100 * HOUR)]


def test_a_write_that_fails_leaves_nothing(
    store: ForecastStore, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        store.write(*forecasts(rng, 2))
    assert list(store.folder.iterdir()) == []


def test_paths_of_another_shape_are_a_programming_error(store: ForecastStore, rng: np.random.Generator) -> None:
    digests, batch = forecasts(rng, 2)
    with pytest.raises(ValueError, match="not those of the store"):
        store.write(digests, ForecastBatch(batch.origins, batch.paths[:, :2]))


def test_the_background_writer_has_written_all_when_it_is_left(store: ForecastStore, rng: np.random.Generator) -> None:
    shards = [forecasts(rng, 3, first) for first in range(0, 30, 3)]
    with ShardWriter(store) as writer:
        for digests, batch in shards:
            writer.put(digests, batch)
    for digests, batch in shards:
        assert len(store.plan(batch.origins, digests).missing) == 0


def test_the_background_writer_hands_its_error_over(
    store: ForecastStore, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def fail(*_: object) -> Path:
        failed.set()
        raise StoreError("the disk is full")

    def keep_on() -> None:
        with ShardWriter(store) as writer:
            writer.put(*forecasts(rng, 1))
            failed.wait(5)
            for first in range(1, 50):  # never blocks, although nobody writes
                writer.put(*forecasts(rng, 1, first))

    monkeypatch.setattr(store, "write", fail)
    with pytest.raises(StoreError, match="the disk is full"):
        keep_on()


def test_a_writer_that_dies_leaves_whole_shards_alone(tmp_path: Path) -> None:
    script = f"""
import numpy as np
from pathlib import Path
from btcbt.records import ForecastBatch
from btcbt.storage.forecasts import ForecastStore
rng = np.random.default_rng(0)
store = ForecastStore(Path({str(tmp_path)!r}), {KEY!r}, n_paths=60, horizon=24)
print("ready", flush=True)
for first in range(10**6):
    origins = np.arange(first * 50, first * 50 + 50, dtype=np.int64)
    digests = np.frombuffer(rng.bytes(50 * 16), dtype="V16")
    store.write(digests, ForecastBatch(origins, rng.random((50, 60, 24, 6), dtype=np.float32)))
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    while len(list(tmp_path.glob("[0-9]*.parquet"))) < 3:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store = ForecastStore(tmp_path, KEY, n_paths=60, horizon=24)
    shards = store.shards()
    assert len(shards) >= 3
    for shard in shards:
        store._read(shard, ["origin", "window", "paths"])  # raises if the shard is not whole


def test_a_run_keeps_its_forecasts_when_the_store_is_gone(
    store: ForecastStore, rng: np.random.Generator, tmp_path: Path
) -> None:
    digests, batch = forecasts(rng, 4)
    path = store.write(digests, batch)
    store.write(*forecasts(rng, 4, 50))
    plan = store.plan(batch.origins, digests)
    store.link_into(tmp_path / "run", plan)
    path.unlink()
    kept = ForecastStore(tmp_path / "run", KEY, n_paths=S, horizon=H)
    assert [shard.path.name for shard in kept.shards()] == [path.name]
    plan = kept.plan(batch.origins, digests)
    np.testing.assert_array_equal(next(kept.read(plan, batch.origins, 9)).paths, batch.paths)


def test_forecasts_are_copied_where_links_cannot_be_made(
    store: ForecastStore, rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    digests, batch = forecasts(rng, 4)
    path = store.write(digests, batch)
    monkeypatch.setattr(os, "link", refuse)
    store.link_into(tmp_path / "run", store.plan(batch.origins, digests))
    copy = tmp_path / "run" / path.name
    assert copy.read_bytes() == path.read_bytes()
    assert copy.stat().st_ino != path.stat().st_ino


def test_the_key_is_that_of_everything_that_makes_a_forecast() -> None:
    arguments = {"interval_ms": HOUR, "context": 8, "horizon": 2, "n_paths": 3, "seed": 0}
    key, meaning = forecast_key({"kind": "x", "weights": "abc"}, **arguments)
    assert forecast_key({"weights": "abc", "kind": "x"}, **arguments)[0] == key
    assert len(key) == 64
    assert meaning["forecaster"] == {"kind": "x", "weights": "abc"}
    assert forecast_key({"kind": "x", "weights": "abd"}, **arguments)[0] != key
    for name in arguments:
        assert forecast_key({"kind": "x", "weights": "abc"}, **{**arguments, name: 9})[0] != key, name


def test_a_new_numerical_version_leaves_old_forecasts_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"interval_ms": HOUR, "context": 8, "horizon": 2, "n_paths": 3, "seed": 0}
    before, _ = forecast_key({}, **arguments)
    monkeypatch.setattr(store_module, "NUMERICAL_VERSION", store_module.NUMERICAL_VERSION + 1)
    assert forecast_key({}, **arguments)[0] != before


def test_a_note_says_what_a_key_stands_for(store: ForecastStore) -> None:
    store.describe({"forecaster": {"kind": "x"}})
    note = store.folder / "key.json"
    assert '"kind": "x"' in note.read_text()
    before = note.stat().st_mtime_ns
    store.describe({"forecaster": {"kind": "x"}})
    assert note.stat().st_mtime_ns == before
    whole = note.read_bytes()
    note.write_bytes(whole[:-20])
    store.describe({"forecaster": {"kind": "x"}})
    assert note.read_bytes() == whole


def test_a_window_digest_is_that_of_exactly_its_candles(make_windows: MakeWindows) -> None:
    windows = make_windows(3, 8)
    digests = window_digests(windows)
    assert len(set(digests.tolist())) == 3
    copies = [Window(w.open_time.copy(), w.values.copy(), w.interval_ms) for w in windows]
    assert (window_digests(copies) == digests).all()
    copies[1].values[0, 5] = np.nextafter(copies[1].values[0, 5], np.inf)
    assert (window_digests(copies) == digests).tolist() == [True, False, True]


def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "note"
    write_whole(file, b"old")
    write_whole(file, b"new")
    assert file.read_bytes() == b"new"
    with pytest.raises(TypeError):
        write_whole(file, 7)
    assert file.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


def test_a_plan_counts_what_is_missing() -> None:
    plan = ShardPlan((), np.array([0, -1, 1, -1]), np.array([0, -1, 5, -1]))
    assert plan.missing.tolist() == [1, 3]


@pytest.mark.parametrize("change", ["first", "last"])
def test_a_shard_that_was_renamed_is_named_and_not_used(
    store: ForecastStore, rng: np.random.Generator, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    digests, batch = forecasts(rng, 5)
    path = store.write(digests, batch)
    first, last, rest = path.name.split("-")
    other = f"{HOUR}-{last}-{rest}" if change == "first" else f"{first}-{3 * HOUR}-{rest}"
    path.rename(path.with_name(other))
    assert len(store.plan(batch.origins, digests).missing) == 5
    assert f"{other} is foreign: its origins are not those that its name says" in caplog.text


def test_a_shard_holds_few_origins_of_many_paths(tmp_path: Path) -> None:
    rows = {
        (s, h): ForecastStore(tmp_path, KEY, n_paths=s, horizon=h).most_rows
        for s, h in [(8, 6), (5000, 24), (10_000, 1024)]
    }
    assert rows[8, 6] > 100_000
    assert rows[5000, 24] == 46  # 128 MiB of 2.88 MB each
    assert rows[10_000, 1024] == 1
