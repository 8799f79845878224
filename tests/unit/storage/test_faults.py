"""A state machine over the store, the runs and the ledger on a disk that fails, fills up, or outlives its process.

Every operation passes a layer that can refuse any system call (open, write, fsync, rename, unlink, mkdir, link), write
less than it was given, or kill the process before any of them. After each step, on a disk that works again:

- a shard is whole or absent, and holds what was written for its key;
- what was reported as stored stays, whatever `gc` is asked to delete while runs use it;
- no run directory is half there, and `latest` never points to nothing;
- the ledger loses no line that was recorded.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from btcbt.errors import StoreError
from btcbt.files import locked_file, temporary_name
from btcbt.records import ForecastBatch
from btcbt.storage import runs
from btcbt.storage.forecasts import DIGEST_BYTES, ForecastStore
from btcbt.storage.garbage import clearing, delete, garbage, list_keys
from btcbt.storage.ledger import Ledger, Trial
from btcbt.storage.remote import LocalFolder

HOUR = 3_600_000
S, H = 1, 2
KEYS = ("a" * 64, "b" * 64)
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EINTR)
CALLS = ("open", "replace", "rename", "unlink", "mkdir", "rmdir", "link", "symlink", "fsync")


COUNTS: Counter[str] = Counter()
"""Operations tried, and faults that hit one, for the output of the proof."""


class KilledError(BaseException):
    """The process is gone: nothing that it does from now on reaches the disk."""


class Disk:
    """Counts system calls below a folder, and lets one of them fail."""

    def __init__(self, at: int | None, how: int | str) -> None:
        self.left, self.how, self.dead, self.fired = at, how, False, False

    def call(self) -> None:
        """Before a system call."""
        if self.dead:
            raise KilledError
        if self.left is None:
            return
        self.left -= 1
        if self.left >= 0:
            return
        self.left, self.fired = None, True
        if self.how == "kill":
            self.dead = True
            raise KilledError
        if isinstance(self.how, int):
            raise OSError(self.how, os.strerror(self.how))

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Pass the system calls of the block through this disk."""
        disk, really_open = self, io.open

        class Raw(io.FileIO):
            def write(self, content: Any) -> int:
                before = disk.fired
                disk.call()
                if disk.how == "short" and disk.fired and not before:
                    content = memoryview(content).cast("B")[: max(1, len(content) // 2)]
                return super().write(content)

        def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            if "b" not in mode or not set(mode) & set("wax+"):
                disk.call()
                return really_open(file, mode, *args, **options)
            disk.call()
            raw = Raw(file, mode.replace("b", ""), opener=options.get("opener"))
            return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                disk.call()
                return function(*args, **options)

            return call

        with (
            mock.patch.multiple(os, **{name: counted(getattr(os, name)) for name in CALLS}),
            mock.patch("io.open", opened),
            mock.patch("builtins.open", opened),
        ):
            yield


FAULTS = st.one_of(st.none(), st.tuples(st.integers(0, 40), st.sampled_from([*ERRORS, "kill", "short"])))


class Storage(RuleBasedStateMachine):
    """The operations, and what must hold after each."""

    @initialize()
    def start(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="btcbt-faults-"))
        self.rng = np.random.default_rng(7)
        self.truth: dict[tuple[str, int], np.ndarray] = {}
        self.held: set[tuple[str, int]] = set()  # in a finished run
        self.stored: set[tuple[str, int]] = set()  # write() returned
        self.trials: set[str] = set()
        self.finished: set[str] = set()
        self.shift = 0.0
        self.writing: Any = None

    def teardown(self) -> None:
        if getattr(self, "writing", None):
            self.writing.__exit__(None, None, None)
        if hasattr(self, "root"):
            shutil.rmtree(self.root)

    def store(self, key: str) -> ForecastStore:
        return ForecastStore(self.root / "store" / key, key, n_paths=S, horizon=H)

    @staticmethod
    def digests(origins: np.ndarray) -> np.ndarray:
        return np.frombuffer(b"".join(int(o).to_bytes(DIGEST_BYTES, "little") for o in origins), f"V{DIGEST_BYTES}")

    def attempt(self, fault: tuple[int, int | str] | None, act: Callable[[], None]) -> bool:
        """Act on a disk with a fault; whether the act was reported as done."""
        disk = Disk(*fault) if fault else Disk(None, "")
        try:
            with disk.mounted(), mock.patch("time.time", lambda now=time.time: now() + self.shift):
                act()
        except (StoreError, OSError, KilledError):
            if not disk.fired:  # nothing was wrong with the disk
                raise
            return False
        finally:
            COUNTS["steps"] += 1
            COUNTS[f"faults: {disk.how}" if disk.fired else "no fault"] += 1
        return not disk.dead

    @rule(key=st.sampled_from(KEYS), first=st.integers(0, 6), n=st.integers(1, 4), fault=FAULTS)
    def put(self, key: str, first: int, n: int, fault: Any) -> None:
        origins = HOUR * np.arange(first, first + n)
        for at in range(first, first + n):
            self.truth.setdefault((key, at), self.rng.normal(size=(S, H, 6)).astype(np.float32))
        paths = np.stack([self.truth[key, at] for at in range(first, first + n)])
        batch = ForecastBatch(origins, paths, {"device": "cpu"})
        if self.attempt(fault, lambda: self.store(key).write(self.digests(origins), batch) and None):
            self.stored |= {(key, at) for at in range(first, first + n)}

    @rule(key=st.sampled_from(KEYS), fault=FAULTS)
    def finish_run(self, key: str, fault: Any) -> None:
        at = sorted(hour for one, hour in self.stored if one == key)
        origins = HOUR * np.array(at, dtype=np.int64)
        name = f"{len(self.finished):04d}"
        target = self.root / "walk" / name

        def act() -> None:
            plan = self.store(key).plan(origins, self.digests(origins))
            if len(plan.missing):  # a run would forecast these again
                raise StoreError("a shard cannot be read")
            with runs.new_directory(target) as folder:
                self.store(key).link_into(folder / "forecasts" / "f", plan)
                (folder / "manifest.json").write_text(json.dumps({"forecasters": {}, "key": key, "hours": at}))
                (folder / "metrics.json").write_text("{}")
            runs.point_latest(target)

        done = self.attempt(fault, act)
        if done or target.exists():
            self.finished.add(name)
            self.held |= {(key, hour) for hour in at}

    @rule(numbers=st.lists(st.integers(0, 30), min_size=1, max_size=3), fault=FAULTS)
    def record(self, numbers: list[int], fault: Any) -> None:
        made = [Trial(f"{n:032x}", "a@b", "x", "c", "s", 0, 1, 0.1, 5, 0.0, 3.0, configuration="k") for n in numbers]
        if self.attempt(fault, lambda: Ledger(self.root / "trials.jsonl").record(made) and None):
            self.trials |= {one.id for one in made}

    @rule(fault=FAULTS, days=st.sampled_from([None, 0.0, 1.0]))
    def collect(self, fault: Any, days: float | None) -> None:
        root = LocalFolder(self.root)
        deleted: list[Any] = []

        def act() -> None:
            with clearing(root) as alone:
                deleted.extend(garbage(root, older_than_days=days, running=not alone))
                delete(deleted)

        if (self.root / "store").is_dir():
            self.attempt(fault, act)
        if any("no run uses it" in one.why for one in deleted):
            self.stored = set(self.held) | self.readable()
        if self.writing is not None:
            assert self.temporary.exists()

    @rule(hours=st.sampled_from([-72, -1, 1, 2, 72]))
    def turn_clock(self, hours: int) -> None:
        self.shift += 3600.0 * hours

    @rule()
    def begin_other_writer(self) -> None:
        if self.writing is None:
            folder = self.store(KEYS[0]).folder
            folder.mkdir(parents=True, exist_ok=True)
            self.temporary = temporary_name(folder / "x.parquet")
            self.writing = locked_file(self.temporary)
            self.writing.__enter__().write(b"half")

    def readable(self) -> set[tuple[str, int]]:
        """What the store can answer with, every forecast compared with what was written for its key."""
        found = set()
        for key in KEYS:
            at = sorted(hour for one, hour in self.truth if one == key)
            origins = HOUR * np.array(at, dtype=np.int64)
            store = self.store(key)
            plan = store.plan(origins, self.digests(origins))
            here = np.flatnonzero(plan.shard >= 0)
            for batch in store.read(type(plan)(plan.shards, plan.shard[here], plan.row[here]), origins[here], 9):
                for origin, paths in zip(batch.origins, batch.paths, strict=True):
                    np.testing.assert_array_equal(paths, self.truth[key, int(origin) // HOUR])
            found |= {(key, at[i]) for i in here}
        return found

    @invariant()
    def nothing_is_lost_or_half_there(self) -> None:
        if not hasattr(self, "root"):
            return
        if (self.root / "store").is_dir():
            assert [key.damaged for key in list_keys(LocalFolder(self.root)) if key.damaged] == []
        assert self.stored <= self.readable()
        assert self.trials <= {trial.id for trial in Ledger(self.root / "trials.jsonl").trials()}
        walk = self.root / "walk"
        whole = {path.name for path in walk.glob("[!.]*") if path.name != runs.LATEST}
        assert whole == self.finished
        for name in whole:
            manifest = json.loads((walk / name / "manifest.json").read_text())
            origins = HOUR * np.array(manifest["hours"], dtype=np.int64)
            kept = ForecastStore(walk / name / "forecasts" / "f", manifest["key"], n_paths=S, horizon=H)
            assert len(kept.plan(origins, self.digests(origins)).missing) == 0
        if (walk / runs.LATEST).is_symlink() or (walk / runs.LATEST).exists():
            newest = runs.latest(walk)
            assert newest is not None
            assert newest.name in self.finished


def test_nothing_is_lost_and_nothing_is_half_there_for_some_hundred_steps() -> None:
    run_state_machine_as_test(
        Storage,
        settings=settings(
            max_examples=12,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.proof
def test_nothing_is_lost_and_nothing_is_half_there_for_ten_thousand_steps() -> None:
    COUNTS.clear()
    run_state_machine_as_test(
        Storage,
        settings=settings(
            max_examples=400,  # of fifty steps at most, many are shorter
            stateful_step_count=50,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert COUNTS["steps"] >= 10_000
    print(dict(sorted(COUNTS.items())))
