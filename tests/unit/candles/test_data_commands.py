"""``btcbt data``: exit codes, one line for each error, and what is printed."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from btcbt.candles import read_candles
from btcbt.cli.main import app
from tests.unit.candles.archive_server import kline_csv, month, status, walk

N = 30


@pytest.fixture
def btcbt(tmp_path, monkeypatch):
    """Run a command in a folder of its own."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def call(*arguments):
        return CliRunner().invoke(app, ["data", *map(str, arguments)])

    return call


@pytest.fixture
def table(tmp_path, rng):
    """A CSV of good candles."""
    path = tmp_path / "good.csv"
    path.write_text(kline_csv(walk(rng, N), 1_546_300_800_000))
    return path


@pytest.fixture
def spoilt(table):
    """The same with a row off the grid and a gap."""
    lines = table.read_text().splitlines()
    lines[4] = lines[4].replace("000,", "123,", 1)
    del lines[10:12]
    path = table.with_name("spoilt.csv")
    path.write_text("\n".join(lines))
    return path


def error(result) -> str:
    """The one line of a refusal."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: candles")
    return lines[0]


def test_an_import_prints_what_it_did(btcbt, table):
    done = btcbt("import", table, "--output", "new/out.parquet")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == ("good.csv: 30 candles of 1h, 2019-01-01T00:00:00Z .. 2019-01-02T05:00:00Z, coverage 100.0000%")
    digest = read_candles("new/out.parquet").sha256
    assert lines[1] == (
        "new/out.parquet: 30 candles added, 0 already stored, 0 stored with other values; SHA-256 " + digest
    )
    assert "0 candles added, 30 already stored" in btcbt("import", table, "--output", "new/out.parquet").stdout


def test_an_import_with_problems_exits_with_1_until_it_is_repaired(btcbt, spoilt, tmp_path):
    done = btcbt("import", spoilt, "--output", "out.parquet")
    assert done.exit_code == 1
    assert "problem: open times off the 1h grid: 1 (first: row 4, 2019-01-01T04:00:00.123Z)" in done.stdout
    assert "not written; check the problems, and add --repair" in done.stdout
    assert list((tmp_path / "work").iterdir()) == []
    done = btcbt("import", spoilt, "--output", "out.parquet", "--repair")
    assert done.exit_code == 0
    assert "dropped: open times off the 1h grid: 1" in done.stdout
    assert len(read_candles("out.parquet")) == N - 3


def test_a_check_tells_problems_from_gaps(btcbt, table, spoilt):
    btcbt("import", spoilt, "--output", "out.parquet", "--repair")
    done = btcbt("check", "out.parquet", table)
    assert done.exit_code == 0
    assert "note: gaps: 2, candles missing: 3" in done.stdout
    assert "good.csv: 30 candles of 1h" in done.stdout
    assert btcbt("check", "out.parquet", "--strict").exit_code == 1
    assert btcbt("check", table, "--strict").exit_code == 0
    done = btcbt("check", table, spoilt)
    assert done.exit_code == 1
    assert "not changed; --repair drops the rows with problems" in done.stdout


def test_a_check_repairs_on_request_alone(btcbt, table):
    btcbt("import", table, "--output", "out.parquet")
    rows = pq.read_table("out.parquet").replace_schema_metadata(None)
    volumes = rows.column("volume").to_numpy().copy()
    volumes[3] = np.inf
    pq.write_table(rows.set_column(5, "volume", [volumes]), "out.parquet")
    assert btcbt("check", "out.parquet").exit_code == 1
    done = btcbt("check", "out.parquet", "--repair")
    assert done.exit_code == 0
    assert "dropped: values that are missing or infinite: 1" in done.stdout
    assert "repaired: out.parquet" in done.stdout
    assert len(read_candles("out.parquet")) == N - 1
    assert btcbt("check", "out.parquet").exit_code == 0


def test_a_sample_is_checked_by_name(btcbt):
    done = btcbt("check", "bundled:BTCUSD_1h")
    assert done.exit_code == 0
    assert done.stdout.startswith("bundled:BTCUSD_1h: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", "none.parquet"], "does not exist"),
        (["check", "bundled:../x"], "no such sample"),
        (["check", "{table}", "--interval", "7h"], "interval '7h' is unknown"),
        (["check", "{table}", "--repair"], "name one with --output"),
        (["import", "{table}", "--output", "out.csv"], "ends in .parquet"),
        (["import", "{table}", "none.csv", "--output", "out.parquet"], "does not exist"),
        (["import", "{table}", "--output", "out.parquet", "--interval", "1d"], "off the 1d grid"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(btcbt, table, tmp_path, arguments, says):
    done = btcbt(*(argument.format(table=table) for argument in arguments))
    if says == "off the 1d grid":  # found by looking at rows, so a problem rather than a refusal
        assert done.exit_code == 1
        assert "open times off the 1d grid: 28" in done.stdout
    else:
        assert says in error(done)
    assert list((tmp_path / "work").iterdir()) == []


@pytest.fixture
def published(archive_server, rng):
    """December 2024 and January 2025."""
    files = []
    for year, number in ((2024, 12), (2025, 1)):
        file = month(year, number)
        first, _ = file.span_ms
        archive_server.publish(file, kline_csv(walk(rng, 31 * 24), first, micro=year > 2024))
        files.append(file)
    return files


def test_a_download_prints_what_it_did_and_where(btcbt, published, archive_server):
    command = ["download", "--symbol", "BTCUSDT", "--start", "2024-12", "--end", "2025-01"]
    done = btcbt(*command, "--base-url", archive_server.url)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "files: 2 fetched"
    assert lines[-1].startswith("data/BTCUSDT_1h.parquet: 1,488 candles added, 0 already stored")
    assert len(read_candles("data/BTCUSDT_1h.parquet")) == 1488
    done = btcbt(*command, "--base-url", archive_server.url)
    assert done.stdout.splitlines() == ["files: 2 stored", "data/BTCUSDT_1h.parquet: nothing new"]


def test_a_download_of_several_symbols_makes_one_file_for_each(btcbt, published, archive_server, rng):
    ether = month(2024, 12, symbol="ETHUSDT")
    archive_server.publish(ether, kline_csv(walk(rng, 31 * 24), ether.span_ms[0]))
    command = ["download", "--symbols", "BTCUSDT,ETHUSDT", "--start", "2024-12", "--end", "2024-12"]
    command += ["--base-url", archive_server.url]
    done = btcbt(*command)
    assert done.exit_code == 0, done.output
    ours = [line for line in done.stdout.splitlines() if line.startswith("data/")]
    assert [line.partition(":")[0] for line in ours] == ["data/BTCUSDT_1h.parquet", "data/ETHUSDT_1h.parquet"]
    assert btcbt("download", "--symbol", "ETHUSDT", *command[3:], "--output", "alone.parquet").exit_code == 0
    both = [read_candles(file) for file in ("data/ETHUSDT_1h.parquet", "alone.parquet")]
    assert both[0].sha256 == both[1].sha256 != read_candles("data/BTCUSDT_1h.parquet").sha256
    assert btcbt(*command, "--output", "other").exit_code == 0
    assert read_candles("other/ETHUSDT_1h.parquet").sha256 == both[0].sha256


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--symbol", "BTCUSDT", "--symbols", "BTCUSDT,ETHUSDT"], "both of --symbol and --symbols given, expected one"),
        ([], "neither of --symbol and --symbols given"),
        (["--symbols", "BTCUSDT,../ETH"], "invalid symbol '../ETH'"),
        (["--symbols", "BTCUSDT,"], "invalid symbol ''"),
        (["--symbols", "BTCUSDT,ETHUSDT,BTCUSDT"], "--symbols has BTCUSDT twice"),
        (["--symbols", "BTCUSDT,ETHUSDT", "--output", "a.parquet"], "--output a.parquet is one file, expected"),
    ],
)
def test_wrong_symbols_are_refused_before_anything_is_fetched(btcbt, archive_server, tmp_path, options, says):
    done = btcbt("download", *options, "--start", "2024-12", "--base-url", archive_server.url)
    assert says in error(done)
    assert archive_server.requests == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_download_with_failed_files_exits_with_2_or_goes_on_with_1(btcbt, published, archive_server):
    archive_server.faults[published[0].name] = [status(403), status(403)]
    command = ["download", "--symbol", "BTCUSDT", "--start", "2024-12", "--end", "2025-01"]
    command += ["--base-url", archive_server.url, "--attempts", "1"]
    assert "1 of 2 files could not be fetched, the first BTCUSDT-1h-2024-12.zip" in error(btcbt(*command))
    done = btcbt(*command, "--keep-going")
    assert done.exit_code == 1
    assert "failed: BTCUSDT-1h-2024-12.zip" in done.stdout
    assert len(read_candles("data/BTCUSDT_1h.parquet")) == 744
    assert btcbt(*command).exit_code == 0


def test_a_download_with_problems_exits_with_1_until_it_is_repaired(btcbt, archive_server, rng):
    file = month(2024, 12)
    lines = kline_csv(walk(rng, 744), file.span_ms[0]).splitlines()
    lines[4] = lines[4].replace("000,", "123,", 1)
    archive_server.publish(file, "\n".join(lines))
    command = ["download", "--symbol", "BTCUSDT", "--start", "2024-12", "--end", "2024-12"]
    command += ["--base-url", archive_server.url]
    done = btcbt(*command)
    assert done.exit_code == 1
    assert "data/BTCUSDT_1h.parquet: not written; check the problems, and add --repair" in done.stdout
    done = btcbt(*command, "--repair")
    assert done.exit_code == 0
    assert "dropped: open times off the 1h grid: 1" in done.stdout
    assert "not in the archive: BTCUSDT-1h-2024-12-01.zip" in done.stdout


@pytest.mark.parametrize(
    "wrong",
    [
        *(["--symbol", "../../BTC"], ["--symbol", "btc"], ["--interval", "../1h"], ["--start", "2016-01"]),
        *(["--start", "x"], ["--end", "2017-07"], ["--base-url", "ftp://a"], ["--jobs", "0"], ["--output", "a.csv"]),
    ],
)
def test_wrong_options_are_refused_before_anything_is_fetched(btcbt, archive_server, tmp_path, wrong):
    options = {"--symbol": "BTCUSDT", "--start": "2024-12", "--end": "2024-12", "--base-url": archive_server.url}
    options |= dict([wrong])
    error(btcbt("download", *(word for pair in options.items() for word in pair)))
    assert archive_server.requests == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
