"""A disk that is full or read-only: one line, exit code 2, and a run that can be resumed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

Write = Callable[..., Path]
Invoke = Callable[[Path], Result]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a small file system in memory at ``tmp_path/disk``, or mount it anew with other options."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")

    def options(text: str) -> Path:
        command = [mount or "mount", "-t", "tmpfs", "-o", text, "tmpfs", str(place)]
        if mount is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("file systems cannot be mounted here")
        return place

    yield options
    while place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


def one_line(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]


def test_a_run_on_a_full_disk_ends_in_one_line_and_resumes_when_there_is_room(
    write: Write, invoke: Invoke, disk: Callable[[str], Path]
) -> None:
    disk("size=220k")
    file = write(root="disk")
    assert "No space left on device" in one_line(invoke(file))
    disk("remount,size=50m")
    result = invoke(file)
    assert result.exit_code == 0, result.output


def test_a_run_on_a_read_only_disk_with_all_forecasts_ends_in_one_line(
    write: Write, invoke: Invoke, disk: Callable[[str], Path]
) -> None:
    disk("size=50m")
    file = write(root="disk")
    assert invoke(file).exit_code == 0
    disk("remount,ro")
    assert "Read-only file system" in one_line(invoke(file))
