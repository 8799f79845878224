"""A store at a URL, on a real HTTP server that speaks S3: shared, healed, and never silently wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from click.testing import Result
from pyarrow import fs
from typer.testing import CliRunner

import btcbt
from btcbt.cli.main import app
from btcbt.walkforward import runner

moto_server = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'btcbt[dev]'")

Write = Callable[..., Path]
Invoke = Callable[[Path], Result]
TABLES = ("scores", "losses", "candles", "targets", "equity", "trades", "orders", "origins")
RESULTS = ("metrics.json", *(f"{table}.parquet" for table in TABLES))
BUCKET = "forecasts"
URL = f"s3://{BUCKET}/btc/hourly"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server that forgets everything when the tests are over."""
    moto = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


def environment(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "s3cr3t-of-the-test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> fs.S3FileSystem:
    """The server's file system, with one empty bucket, and the environment of who may use it."""
    environment(monkeypatch, server)
    monkeypatch.setattr(runner, "draw_figures", lambda *_: None)  # most of the time of such a small run
    requests.post(f"{server}/moto-api/reset", timeout=10)
    system = fs.S3FileSystem(
        endpoint_override=server.removeprefix("http://"), scheme="http", region="us-east-1", allow_bucket_creation=True
    )
    system.create_dir(BUCKET)
    return system


def objects(s3: fs.S3FileSystem) -> list[str]:
    found = s3.get_file_info(fs.FileSelector(BUCKET, recursive=True))
    return sorted(info.path for info in found if info.type == fs.FileType.File)


def shards(s3: fs.S3FileSystem) -> list[str]:
    return [path for path in objects(s3) if path.endswith(".parquet")]


def remote(write: Write, local: Path, url: str = URL) -> Path:
    file = write()
    text = file.read_text()
    start = text.index("  root: ")
    return_text = f"{text[:start]}  root: {url}\n  local: {local}\n{text[text.index('  shard_size') :]}"
    file.write_text(return_text)
    return file


def computed(run: btcbt.Run) -> int:
    return sum(member["computed"] for member in run.manifest["forecasters"].values())


def same(one: btcbt.Run, other: btcbt.Run) -> None:
    for name in RESULTS:
        assert (one.directory / name).read_bytes() == (other.directory / name).read_bytes(), name
    for name in ("random_walk", "ewma"):
        np.testing.assert_array_equal(one.forecasts(name).paths(), other.forecasts(name).paths())


def test_what_one_machine_forecast_another_reuses(write: Write, tmp_path: Path, s3: fs.S3FileSystem) -> None:
    local = btcbt.run(write(root="local"))
    first = btcbt.run(remote(write, tmp_path / "one"))
    same(local, first)
    assert computed(first) == 2 * len(first.origins())
    assert len(shards(s3)) == len(list((tmp_path / "one" / "store").glob("*/*.parquet"))) > 2
    assert all(path.startswith(f"{BUCKET}/btc/hourly/store/") for path in objects(s3))
    assert [path for path in objects(s3) if not path.endswith((".parquet", "/key.json"))] == []
    second = btcbt.run(remote(write, tmp_path / "two"))
    same(local, second)
    assert computed(second) == 0
    before = objects(s3)
    again = btcbt.run(remote(write, tmp_path / "two"))
    assert computed(again) == 0
    assert objects(s3) == before


def test_a_run_is_read_without_the_url_and_holds_no_secret(
    write: Write, tmp_path: Path, s3: fs.S3FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = btcbt.run(remote(write, tmp_path / "one"))
    shutil.rmtree(tmp_path / "one" / "store")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    read = btcbt.load_run(tmp_path / "one" / "small")
    assert read.forecasts("ewma").paths().shape[0] == len(run.origins())
    assert read.manifest["config"]["store"]["root"] == URL
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            assert b"s3cr3t-of-the-test" not in path.read_bytes(), path


def test_a_damaged_object_is_named_and_its_origins_are_computed_again(
    write: Write, invoke: Invoke, tmp_path: Path, s3: fs.S3FileSystem
) -> None:
    whole = btcbt.run(remote(write, tmp_path / "one"))
    flipped, cut = shards(s3)[0], shards(s3)[-1]
    with s3.open_input_stream(flipped) as stream:
        content = bytearray(stream.read())
    content[len(content) // 2] ^= 1
    for path, now in ((flipped, bytes(content)), (cut, bytes(content[:50]))):
        with s3.open_output_stream(path) as stream:
            stream.write(now)
    code, text = store("verify")
    assert code == 1
    result = invoke(remote(write, tmp_path / "two"))
    assert result.exit_code == 0, result.output
    for path in (flipped, cut):
        assert f"s3://{path} is damaged" in text
        assert f"warning: s3://{path} is damaged" in result.stderr
    again = btcbt.load_run(tmp_path / "two" / "small")
    same(whole, again)
    assert 0 < computed(again) < 2 * len(whole.origins())
    assert store("verify")[0] == 0  # equal forecasts make equal files: the damaged ones were replaced


def test_a_damaged_file_here_is_healed_from_the_url(write: Write, tmp_path: Path, s3: fs.S3FileSystem) -> None:
    btcbt.run(remote(write, tmp_path / "one"))
    shutil.rmtree(tmp_path / "one" / "small")
    file = min((tmp_path / "one" / "store").glob("*/*.parquet"))
    file.write_bytes(file.read_bytes()[:-1])
    assert computed(btcbt.run(remote(write, tmp_path / "one"))) == 0


def test_what_is_here_and_not_there_is_sent(write: Write, tmp_path: Path, s3: fs.S3FileSystem) -> None:
    btcbt.run(write(root="one"))
    assert objects(s3) == []
    run = btcbt.run(remote(write, tmp_path / "one"), force=True)
    assert computed(run) == 0
    assert len(shards(s3)) == len(list((tmp_path / "one" / "store").glob("*/*.parquet")))
    assert len([path for path in objects(s3) if path.endswith("/key.json")]) == 2


def store(command: str, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["store", command, "--root", URL, *arguments])
    return result.exit_code, result.output


def test_the_store_commands_work_at_a_url(write: Write, tmp_path: Path, s3: fs.S3FileSystem) -> None:
    assert store("ls") == (
        2,
        f"error: {URL}/store: no store of forecasts there; give the experiments' store.root\n",
    )
    btcbt.run(remote(write, tmp_path / "one"))
    code, text = store("ls")
    assert code == 0
    assert "ewma_volatility" in text
    assert store("verify") == (0, f"{len(shards(s3))} files of 2 keys with 144 forecasts; 0 damaged\n")
    assert "0 files" in store("gc")[1]  # nobody knows who uses what is old
    assert "0 files" in store("gc", "--older-than", "0")[1]  # all of it is younger than an hour


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "s3://nowhere/btc",
            "store.root s3://nowhere/btc: bucket 'nowhere' does not exist; create it or correct the name",
        ),
        ("s3://who:hunter2@bucket/btc", "'store.root': a URL without user, password or key is expected"),
    ],
)
def test_a_wrong_url_is_one_line(
    write: Write, invoke: Invoke, tmp_path: Path, s3: fs.S3FileSystem, url: str, expected: str
) -> None:
    refused(invoke, remote(write, tmp_path / "runs", url), expected, tmp_path / "runs")


def test_wrong_credentials_are_one_line(
    write: Write, invoke: Invoke, tmp_path: Path, s3: fs.S3FileSystem, server: str
) -> None:
    set_free_requests(server, 0)  # from here on the server knows its users, and this is none
    try:
        refused(invoke, remote(write, tmp_path / "runs"), f"store.root {URL}: not reachable", tmp_path / "runs")
    finally:
        set_free_requests(server, 10**9)


def set_free_requests(server: str, count: int) -> None:
    requests.post(f"{server}/moto-api/reset-auth", data=str(count).encode(), timeout=10)


def test_no_network_is_one_line(write: Write, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, "http://127.0.0.1:9")  # nobody listens there
    refused(invoke, remote(write, tmp_path / "runs"), f"store.root {URL}: not reachable", tmp_path / "runs")


def refused(invoke: Invoke, file: Path, expected: str, root: Path) -> None:
    result = invoke(file)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert expected in line
    assert "hunter2" not in result.output
    assert "s3cr3t" not in result.output
    assert not root.exists()
