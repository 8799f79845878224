"""What parts open while they run is recorded with the line that asked for it."""

from __future__ import annotations

import os

import numpy as np
import pytest

import btcbt
from btcbt.audit.process import Access, AccessRecorder, new_process


@pytest.fixture
def recorder():
    """One that hears what it is told; the hook of the interpreter, which stays, is for processes of its own."""
    return AccessRecorder()


def test_data_files_and_connections_are_noted_with_their_place(recorder, tmp_path):
    file = tmp_path / "prices.csv"
    with recorder.recording():
        recorder.hear("open", (str(file), "r", 0))
        recorder.hear("open", (bytes(file), "r", 0))
        recorder.hear("socket.connect", (None, ("example.org", 443)))
    files = [one for one in recorder.seen if not one.connection]
    assert {one.what for one in files} == {str(file)}
    assert all(one.by.startswith("test_process.py:") for one in recorder.seen)
    (connection,) = [one for one in recorder.seen if one.connection]
    assert "example.org" in connection.what


@pytest.mark.parametrize(
    ("event", "arguments"),
    [("open", ("module.py", "r", 0)), ("open", (3, "r", 0)), ("os.listdir", (".",)), ("import", ("numpy",))],
)
def test_code_descriptors_and_other_events_are_not(recorder, event, arguments):
    with recorder.recording():
        recorder.hear(event, arguments)
    assert not recorder.seen


def test_nothing_is_noted_before_and_after(recorder):
    recorder.hear("open", ("early.csv", "r", 0))
    with recorder.recording():
        pass
    recorder.hear("open", ("late.csv", "r", 0))
    assert recorder.seen == set()


def test_an_access_is_one_however_often_it_is_made():
    one = ("/a.csv", "strategy", "rule", "mine.py", 3)
    assert len({Access(*one), Access(*one)}) == 1


def test_files_of_the_system_and_of_packages_are_not_a_users(recorder):
    with recorder.recording():
        for file in (np.__file__, "/proc/self/status", btcbt.__file__):
            recorder.hear("open", (file, "r", 0))
    assert not recorder.seen


def test_a_fresh_process_has_a_home_of_its_own_and_no_variable_of_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("BTCBT_TEST_SECRET", "1")
    with new_process(tmp_path) as pool:
        found = pool.submit(os.path.expandvars, "$HOME $TMPDIR $BTCBT_TEST_SECRET").result()
    assert found == f"{tmp_path} {tmp_path} $BTCBT_TEST_SECRET"
