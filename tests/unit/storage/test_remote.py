"""Folders here and elsewhere: the same few operations, and one line when they fail."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pyarrow import fs

from btcbt.config import StoreConfig, store_root
from btcbt.errors import ConfigError, StoreError
from btcbt.storage import remote as folders
from btcbt.storage.remote import Folder, LocalFolder, RemoteFolder, open_folder


def remote(path: Path, system: fs.FileSystem | None = None) -> RemoteFolder:
    """A disk taken for a service."""
    return RemoteFolder(system or fs.LocalFileSystem(), str(path), "s3://name/runs")


@pytest.fixture(params=["local", "remote"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return LocalFolder(tmp_path) if request.param == "local" else remote(tmp_path)


def test_files_and_folders_are_listed_in_order_and_read_whole(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "b" / "inner").mkdir(parents=True)
    (tmp_path / "a").mkdir()
    for name in ("two", "one"):
        (tmp_path / "b" / name).write_bytes(name.encode() * 10)
    assert folder.folders() == ["a", "b"]
    assert folder.files() == []
    inside = folder.child("b")
    assert [(entry.name, entry.size) for entry in inside.files()] == [("one", 30), ("two", 30)]
    assert inside.files()[0].modified == pytest.approx((tmp_path / "b" / "one").stat().st_mtime, abs=1e-3)
    assert inside.read("one") == b"one" * 10
    inside.delete("one")
    inside.delete("one")
    assert [entry.name for entry in inside.files()] == ["two"]


def test_a_folder_that_is_not_there_is_empty(folder: Folder) -> None:
    assert (folder.child("none").files(), folder.child("none").folders()) == ([], [])
    with pytest.raises(StoreError, match=r"none/x cannot be read"):
        folder.child("none").read("x")


def test_a_local_folder_deletes_a_folder_with_all_in_it_and_no_link_s_target(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    LocalFolder(tmp_path).delete("link")
    assert (tmp_path / "real" / "file").exists()
    LocalFolder(tmp_path).delete("real")
    assert list(tmp_path.iterdir()) == []


def test_a_remote_file_takes_the_place_of_another_and_leaves_no_temporary_one(tmp_path: Path) -> None:
    folder = remote(tmp_path)
    folder.write("note", b"old")
    folder.write("note", b"new")
    assert folder.read("note") == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


class Wrapped:
    """A file system, some of whose operations are replaced."""

    def __init__(self, **replaced: object) -> None:
        self._inner = fs.LocalFileSystem()
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


def test_an_object_store_shows_an_object_when_it_is_whole_so_nothing_is_renamed(tmp_path: Path) -> None:
    opened: list[str] = []

    def open_output_stream(path: str, compression: None) -> io.BufferedWriter:
        opened.append(path)
        return Path(path).open("wb")

    remote(tmp_path, Wrapped(open_output_stream=open_output_stream)).write("note", b"x")  # type: ignore[arg-type]
    assert opened == [f"{tmp_path}/note"]


@pytest.mark.parametrize(
    ("done", "operation"),
    [("read", "open_input_stream"), ("written", "open_output_stream"), ("deleted", "delete_file")],
)
def test_what_a_service_refuses_is_said_in_one_line_with_the_file_s_url(
    tmp_path: Path, done: str, operation: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("AWS Error ACCESS_DENIED\nduring something: " + 1000 * "x")

    folder = remote(tmp_path, Wrapped(**{operation: refuse}))  # type: ignore[arg-type]
    act = {"read": folder.read, "written": lambda name: folder.write(name, b""), "deleted": folder.delete}[done]
    with pytest.raises(
        StoreError, match=rf"^s3://name/runs/note cannot be {done} \(AWS Error ACCESS_DENIED during"
    ) as caught:
        act("note")
    assert len(str(caught.value)) < 300


def test_files_that_go_while_they_are_listed_are_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "renamed"):
        (tmp_path / name).write_text("x")
    folder, before = LocalFolder(tmp_path), LocalFolder._paths

    def slow(self: LocalFolder) -> list[Path]:
        found = before(self)
        (tmp_path / "renamed").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(LocalFolder, "_paths", slow)
    assert [entry.name for entry in folder.files()] == ["here"]


def test_a_folder_that_may_not_be_listed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(StoreError, match=r"cannot be listed \(Permission denied\); fix its permissions"):
        LocalFolder(tmp_path).files()


def test_what_arrow_cannot_make_a_file_system_of_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa

    def fail(*_: object) -> None:
        raise pa.ArrowInvalid("Cannot parse\nURI")

    monkeypatch.setattr(folders, "_s3", fail)
    with pytest.raises(StoreError, match=r"not reachable \(Cannot parse URI\)"):
        open_folder("s3://bucket/runs")


def test_a_path_is_a_folder_of_this_machine(tmp_path: Path) -> None:
    for place in (tmp_path, str(tmp_path)):
        assert str(open_folder(place)) == str(tmp_path)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://key:hunter2@bucket/runs", "without user, password or key"),
        ("s3://hunter2@bucket/runs", "without user, password or key"),
        ("s3://bucket/runs?secret_key=hunter2", "nothing but region, scheme, endpoint_override after '?'"),
        ("s3://bucket/runs?hunter2", "not a URL; write it as s3://BUCKET/PREFIX"),
        ("s3://bucket/runs#hunter2", "without user, password or key"),
        ("ftp://hunter2/runs", "starts with s3:// or gs://"),
        ("hdfs://hunter2/runs", "starts with s3:// or gs://"),
        ("s3:///hunter2", "a URL such as s3://BUCKET/PREFIX"),
        ("s3://bucket/../hunter2", "without '..'"),
        ("s3://[hunter2", "not a URL"),
        ("s3://hunter2:abc/runs", "not a URL"),
        ("s3://hunter2:70000/runs", "not a URL"),
        ("s3://bucket/hunter2?scheme=ftp", "scheme=http or scheme=https"),
    ],
)
def test_a_url_says_where_and_never_who_and_a_wrong_one_is_not_repeated(url: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        store_root(url)
    assert expected in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_runs_lie_in_a_folder_of_this_machine_wherever_forecasts_do() -> None:
    assert (StoreConfig(root="here").folder, StoreConfig(root="here").url) == (Path("here"), None)
    at_url = StoreConfig(root="s3://bucket/x?region=eu-west-1")
    assert (at_url.folder, at_url.url) == (Path("runs"), "s3://bucket/x?region=eu-west-1")
    assert StoreConfig(root="gs://bucket", local="mine").folder == Path("mine")
    for root, local in (("here", "there"), ("s3://bucket", "s3://other")):
        with pytest.raises(ValueError, match="local is a folder that complements a root that is a URL"):
            StoreConfig(root=root, local=local)
