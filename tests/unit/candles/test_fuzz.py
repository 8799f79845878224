"""Mutated candle files: each is refused in one line with a documented exit code, or gives candles that are valid.

A small set runs with every test run; ``make proof`` feeds 2,000 files and prints what became of them.
"""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from btcbt.candles import make_candles, read_candles, write_candles
from btcbt.candles.importers import import_candles
from btcbt.cli.main import app
from btcbt.errors import CandleError
from btcbt.records import CHANNELS
from tests.unit.candles.archive_server import HOUR, kline_csv, walk, zipped

START = 1_735_682_400_000  # 2024-12-31T22:00Z, two hours before the archive changes its unit
N = 12
TIMES = START + HOUR * np.arange(N)
TOKENS = [
    *(b"nan", b"inf", b"-inf", b"1e999", b"-1", b"0", b"1e-320", b"9" * 25, b"0" * 300, b"0x1F", b"1_000", b"1,5"),
    *(b"2024-13-01", b"now", b"2024-12-31T22:00:00+99:00", b"null", b"None", b"true", b"=cmd()", b"\x1b[31m"),
    *(b",", b"\n", b"\r", b'"', b"'", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"[", b"{", b"}", b"]", b":", b"[" * 999),
    *(b"../../x", b"PAR1", b"PK\x03\x04", b"open", b"timestamp,", b"!!python/object", b"\\ud800", "١".encode()),
]
ODD_COLUMNS = {
    "text": lambda column: pa.array(map(str, column.tolist())),
    "whole": lambda column: pa.array(column.astype(np.int64)),
    "half": lambda column: pa.array(column.astype(np.float16)),
    "true": lambda column: pa.array(column > 0),
    "nulls": lambda column: pa.nulls(N),
    "one null": lambda column: pa.array([None, *column[1:].tolist()]),
    "lists": lambda column: pa.array([[x] for x in column.tolist()]),
    "structs": lambda column: pa.array([{"open": x} for x in column.tolist()]),
    "dictionary": lambda column: pa.array(column).dictionary_encode(),
    "bytes": lambda column: pa.array([b"\xff" * 9] * N),
    "huge": lambda column: pa.array(column * 1e300),
    "negative": lambda column: pa.array(-column),
    "infinite": lambda column: pa.array(column / 0.0),
    "same": lambda column: pa.array([column[0]] * N),
    "reversed": lambda column: pa.array(column[::-1]),
    "largest": lambda column: pa.array([2**63 - 1] * N),
    "unsigned": lambda column: pa.array(np.full(N, 2**64 - 1, dtype=np.uint64)),
    "days": lambda column: pa.array(column.astype("datetime64[D]")),
    "local": lambda column: pa.array(column.astype(np.int64)).cast(pa.timestamp("us")),
    "elsewhere": lambda column: pa.array(column.astype(np.int64)).cast(pa.timestamp("ms", tz="Asia/Kathmandu")),
    "nowhere": lambda column: pa.array(column.astype(np.int64)).cast(pa.timestamp("ms", tz="Mars/\u2028Olympus")),
}


def good_files() -> dict[str, bytes]:
    """One good file in each format, by its name."""
    values = walk(np.random.default_rng(7), N)
    table = kline_csv(values, START, micro=True)
    lists = [[int(at), *row] for at, row in zip(TIMES, values.tolist(), strict=True)]
    named = [dict(zip(("timestamp", *CHANNELS), row, strict=True)) for row in lists]
    header = "timestamp,open,high,low,close,volume,amount"
    return {
        "archive.csv": table.encode(),
        "plain.csv": "\n".join([header, *(",".join(map(str, row)) for row in lists)]).encode(),
        "iso.csv": "\n".join(
            [header, *(",".join([f"{np.datetime64(row[0], 'ms')}Z", *map(str, row[1:])]) for row in lists)]
        ).encode(),
        "lists.json": json.dumps(lists).encode(),
        "objects.json": json.dumps(named).encode(),
        "columns.json": json.dumps({name: [row[name] for row in named] for name in named[0]}).encode(),
        "lines.jsonl": "\n".join(map(json.dumps, named)).encode(),
        "archive.zip": zipped("archive.csv", table),
    }


GOOD = good_files()


@st.composite
def mutations(draw, content: bytes) -> bytes:
    """`content` after one to four changes of its bytes; half of them are of digits, which keeps the form."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        digits = [at for at, byte in enumerate(changed) if chr(byte) in "0123456789"]
        if digits and draw(st.booleans()):
            at = draw(st.sampled_from(digits))
            changed[at : at + 1] = draw(st.sampled_from([*(b"%d" % i for i in range(10)), b"", b"-", b".", b"e"]))
            continue
        at = draw(st.integers(0, len(changed)))
        upto = min(at + draw(st.integers(1, 40)), len(changed))
        match draw(st.sampled_from(["flip", "token", "bytes", "cut", "repeat", "end", "move"])):
            case "flip" if at < len(changed):
                changed[at] ^= 1 << draw(st.integers(0, 7))
            case "token":
                changed[at : draw(st.sampled_from([at, upto]))] = draw(st.sampled_from(TOKENS))
            case "bytes":
                changed[at:upto] = draw(st.binary(max_size=20))
            case "cut":
                del changed[at:upto]
            case "repeat":
                changed[at:at] = changed[at:upto] * draw(st.integers(1, 5))
            case "end":
                del changed[at:]
            case "move":
                piece = changed[at:upto]
                del changed[at:upto]
                place = draw(st.integers(0, len(changed)))
                changed[place:place] = piece
    return bytes(changed)


@st.composite
def tables(draw) -> bytes:
    """A Parquet file with some columns of other types, other names, or gone."""
    values = walk(np.random.default_rng(7), N)
    columns = [("open_time", pa.array(TIMES).cast(pa.timestamp("ms", tz="UTC")))]
    columns += [(name, pa.array(values[:, channel])) for channel, name in enumerate(CHANNELS)]
    raw = [TIMES.astype(np.float64), *values.T]
    for _ in range(draw(st.integers(1, 3))):
        i = draw(st.integers(0, len(columns) - 1))
        name, column = columns[i]
        match draw(st.sampled_from(["type", "name", "gone", "twice"])):
            case "type":
                with np.errstate(all="ignore"):
                    kind = draw(st.sampled_from(sorted(ODD_COLUMNS)))
                    columns[i] = (name, ODD_COLUMNS[kind](raw[i % len(raw)]))
            case "name":
                columns[i] = (draw(st.sampled_from(["close", "", "a.b", "time", "x\x00y", "é", "n" * 5000])), column)
            case "gone" if len(columns) > 1:
                del columns[i]
            case "twice":
                columns.append((name, column))
    sink = io.BytesIO()
    names, arrays = zip(*columns, strict=True)
    pq.write_table(pa.table(list(arrays), names=list(names)), sink)
    return sink.getvalue()


@st.composite
def hostile_files(draw, stored: bytes) -> tuple[str, bytes]:
    """Name and content of a file that was good once."""
    kind = draw(st.sampled_from([*GOOD, "stored.parquet", "table.parquet", "table.parquet", "noise"]))
    if kind == "noise":
        ending = draw(st.sampled_from([".csv", ".json", ".jsonl", ".parquet", ".zip"]))
        return f"noise{ending}", draw(st.binary(max_size=300))
    if kind == "table.parquet":
        content = draw(tables())
        return kind, draw(mutations(content)) if draw(st.booleans()) else content
    if kind == "archive.zip" and draw(st.booleans()):
        return kind, zipped("archive.csv", draw(mutations(GOOD["archive.csv"])))
    return kind, draw(mutations(stored if kind == "stored.parquet" else GOOD[kind]))


class Fuzz:
    """Feeds a file to everything that reads candles, and counts what came of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen = Counter()
        good = folder / "good.parquet"
        write_candles(make_candles(TIMES, walk(np.random.default_rng(7), N), interval="1h"), good)
        self.stored = good.read_bytes()
        good.unlink()
        self.runner = CliRunner()

    def feed(self, name: str, content: bytes) -> None:
        source, output = self.folder / name, self.folder / "out" / "history.parquet"
        source.write_bytes(content)
        try:
            self.read(import_candles, source)
            if source.suffix == ".parquet":
                self.read(read_candles, source)
            code = self.command("import", source, "--output", output)
            self.seen[source.suffix, code] += 1
            assert output.exists() == (code == 0)
            assert source.read_bytes() == content
            if code == 1:
                repaired = self.command("import", source, "--output", output, "--repair")
                assert output.exists() == (repaired == 0)
            if output.exists():
                self.read(read_candles, output)
                assert self.command("check", output) == 0
            assert {path.name for path in self.folder.rglob("*") if path.is_file()} <= {name, output.name}
        finally:
            source.unlink()
            output.unlink(missing_ok=True)

    def read(self, reader, path: Path) -> None:
        """Either valid candles, or one line."""
        try:
            candles = reader(path)
        except CandleError as error:
            message = str(error)
            if len(message.splitlines()) != 1 or not message.isprintable() or len(message) > 1000:
                pytest.fail(f"not one line: {message!r}")
            return
        again = make_candles(candles.open_time, candles.values, interval="1h")
        np.testing.assert_array_equal(again.values, candles.values)

    def command(self, *arguments: object) -> int:
        """The exit code of ``btcbt data``, if it is one that is documented."""
        done = self.runner.invoke(app, ["data", *map(str, arguments)])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code in (0, 1, 2)
        assert "Traceback" not in done.output
        errors = done.stderr.splitlines()
        if done.exit_code == 2:
            assert len(errors) == 1
            assert errors[0].startswith("error: candles")
        else:
            assert errors == []
        return done.exit_code


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, examples: int, phases: list[Phase]) -> Counter:
    monkeypatch.chdir(folder)
    fuzz = Fuzz(folder)

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=phases,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(hostile_files(fuzz.stored))
    def feed(file: tuple[str, bytes]) -> None:
        fuzz.feed(*file)

    feed()
    return fuzz.seen


def test_mutated_files_are_refused_in_one_line_or_give_valid_candles(tmp_path, monkeypatch):
    seen = run(tmp_path, monkeypatch, 200, [Phase.generate, Phase.shrink])
    assert sum(seen.values()) >= 200
    assert {code for _, code in seen} == {0, 1, 2}


@pytest.mark.proof
def test_two_thousand_mutated_files_are_refused_in_one_line_or_give_valid_candles(tmp_path, monkeypatch):
    seen = run(tmp_path, monkeypatch, 2000, [Phase.generate])
    assert sum(seen.values()) >= 2000
    lines = [
        f"{ending:9} " + ", ".join(f"exit {code}: {seen[ending, code]:,}" for code in (0, 1, 2))
        for ending in sorted({ending for ending, _ in seen})
    ]
    print("\n" + "\n".join(lines))


@pytest.mark.parametrize("name", GOOD)
def test_the_files_that_are_mutated_are_good(tmp_path, name):
    (tmp_path / name).write_bytes(GOOD[name])
    candles = import_candles(tmp_path / name)
    np.testing.assert_array_equal(candles.open_time, TIMES)
    np.testing.assert_array_equal(candles.values, walk(np.random.default_rng(7), N))
