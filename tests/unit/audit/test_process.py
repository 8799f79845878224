"""What parts open while they run is recorded with the line that asked for it."""

from __future__ import annotations

import pytest

from btcbt.audit.process import Access, AccessRecorder


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
    assert len({Access("/a.csv", "strategy", "mine.py:3"), Access("/a.csv", "strategy", "mine.py:3")}) == 1
