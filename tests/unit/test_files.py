"""Atomic writes and locks on files."""

from __future__ import annotations

from pathlib import Path

import pytest

from btcbt.files import (
    CAN_LOCK,
    TEMPORARY,
    acquire_lock,
    in_use,
    is_being_written,
    locked_file,
    replacing,
    temporary_name,
)

needs_locks = pytest.mark.skipif(not CAN_LOCK, reason="this system does not lock files")


@needs_locks
def test_an_exclusive_lock_is_refused_to_a_second_until_the_first_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as first, path.open("rb") as second:
        assert acquire_lock(first)
        assert not acquire_lock(second, wait=False)
        first.close()
        assert acquire_lock(second, wait=False)


@needs_locks
def test_shared_locks_go_together_and_keep_an_exclusive_one_out(tmp_path: Path) -> None:
    with in_use(tmp_path) as first, in_use(tmp_path) as second, in_use(tmp_path, alone=True) as alone:
        assert (first, second, alone) == (True, True, False)
    with in_use(tmp_path, alone=True) as alone:
        assert alone


@needs_locks
def test_a_temporary_file_is_being_written_as_long_as_its_writer_has_it_open(tmp_path: Path) -> None:
    path = temporary_name(tmp_path / "shard.parquet")
    assert TEMPORARY.fullmatch(path.name)
    with locked_file(path):
        assert is_being_written(path)
    assert not is_being_written(path)


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
