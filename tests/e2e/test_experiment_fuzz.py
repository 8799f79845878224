"""Mutated experiments: each runs, or ends with a documented exit code, one line, and no file but in the runs' folder.

A small set runs with every test run; ``make proof`` feeds 5,000 and prints what became of them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import btcbt
from btcbt.candles import write_candles
from btcbt.cli.main import app
from btcbt.records import Candles
from btcbt.walkforward import runner

# The folder of runs follows behind, out of reach: where a user lets runs be written is for him to say.
GOOD = """\
name: fuzz
candles: {path: candles.parquet, interval: 1h}
windows:
  start: 2019-01-03
  end: 2019-01-04
  context: 24
  horizon: 3
  stride: 6
forecasters:
  random_walk: {kind: random_walk, n_paths: 4}
  ewma:
    kind: ewma_volatility
    n_paths: 4
    decay: 0.9
    batch_size: auto
  better: {kind: calibrated, base: ewma, rates: [0.01, 0.02]}
strategies:
  threshold: {use: threshold, params: {entry_bps: 5.0}}
  momentum:
    use: momentum
    params: {lookback: 6}
portfolio: {initial_cash: 1000, fee_bps: 10, slippage_bps: 2.0, max_long: 1, max_short: 0.5}
executor: {kind: local, workers: 1}
placebos: 0
seed: 3
"""
END = """
store:
  root: runs
"""
VALUES = [
    *("", "null", "~", "true", "no", "-1", "0", "1", "2", "7", "0.5", "1e-320", "1e999", "-.inf", ".nan", "0x10"),
    *("0o7", "1_000", "9" * 30, "-" + "9" * 30, "1:30", "'3'", '"1h"', "4h", "1m", "[]", "{}", "[1, 2]", "{a: 1}"),
    *("2019-01-03T12:00:00Z", "2019-01-03T12:00:00+14:00", "2019-13-01", "0001-01-01", "9999-12-31", "12:00"),
    *("garch", "drift", "random_walk", "calibrated", "oracle", "ewma", "better", "fuzz", "store", "trials.jsonl"),
    *("../../etc", "/etc/passwd", "candles.parquet", "nowhere.parquet", "bundled:BTCUSD_1h", "bundled:../x", "-", "."),
    *(
        "flat",
        "strategies.nothing:X",
        "btcbt.strategies.threshold:Params",
        "os:system",
        "btcbt:run",
        "a:b:c",
    ),
    *("!!python/object/apply:os.getcwd []", "!!binary aGk=", "!x y", "&a 1", "*a", "<<", "? x", "- x", "|", ">"),
    *('"\\0"', '"\\e[31m"', '"\\u2028"', "'", '"', "é", "\u202e", "\U0001f4a5", "x" * 5000, "[" * 60, "{a: " * 40),
    *("{kind: garch, n_paths: 2}", "{kind: drift}", "{kind: joblib, workers: 0}", "{kind: ray, address: 7}", "#", "@"),
    *("[[[[1]]]]", "%TAG", "\t", "`"),
]
KEYS = ["name", "seed", "kind", "n_paths", "params", "use", "base", "store", "root", "1", "null", "__class__"]
CHANGES = ["value", "value", "inner", "key", "line", "drop", "twice", "indent", "bytes", "bytes", *4 * ["digit"]]
PARTS = 10
"""Of the five thousand: each takes a minute."""
SKIPPED = ("kronos",)
"""Not fed: a network takes seconds, and its checkpoints are fuzzed on their own."""


@st.composite
def experiments(draw: Callable[..., object]) -> bytes:
    """The good experiment after one to three changes of its lines, values or bytes."""
    text = bytearray(GOOD.encode())
    for _ in range(draw(st.integers(1, 3))):
        lines = bytes(text).split(b"\n")
        row = draw(st.integers(0, len(lines) - 1))
        head, colon, _ = lines[row].partition(b": ")
        indent = lines[row][: len(lines[row]) - len(lines[row].lstrip())]
        value = draw(st.sampled_from(VALUES)).encode()
        match draw(st.sampled_from(CHANGES)):
            case "value":
                lines[row] = head + (colon or b": ") + value
            case "inner":  # one of the values of a mapping on one line
                parts = lines[row].split(b", ")
                at = draw(st.integers(0, len(parts) - 1))
                parts[at] = parts[at].rpartition(b": ")[0] + b": " + value
                lines[row] = b", ".join(parts)
            case "key":
                lines[row] = indent + draw(st.sampled_from(KEYS)).encode() + lines[row][len(head) :]
            case "line":
                lines.insert(row, indent + draw(st.sampled_from(KEYS)).encode() + b": " + value)
            case "drop":
                del lines[row]
            case "twice":
                lines.insert(row, lines[row])
            case "indent":
                lines[row] = b" " * draw(st.integers(0, 6)) + lines[row].lstrip()
            case "digit":  # which is often as good as it was
                changed = bytearray(b"\n".join(lines))
                digits = [at for at, byte in enumerate(changed) if byte in b"0123456789"]
                if digits:
                    changed[draw(st.sampled_from(digits))] = draw(st.sampled_from(b"0123456789"))
                lines = bytes(changed).split(b"\n")
            case "bytes":
                changed = bytearray(b"\n".join(lines))
                at = draw(st.integers(0, max(0, len(changed) - 1)))
                upto = at + draw(st.integers(0, 12))
                changed[at:upto] = draw(
                    st.one_of(st.binary(max_size=8), st.text("0123456789.-:{}[],e ", max_size=3).map(str.encode))
                )
                lines = bytes(changed).split(b"\n")
        text = bytearray(b"\n".join(lines))
    return bytes(text)


class Fuzz:
    """Feeds an experiment to ``btcbt run`` and counts what came of it."""

    def __init__(self, folder: Path, history: Candles) -> None:
        self.folder = folder
        write_candles(history, folder / "candles.parquet")
        self.candles = (folder / "candles.parquet").read_bytes()
        self.seen: Counter[int] = Counter()

    def feed(self, content: bytes) -> None:
        file = self.folder / "experiment.yaml"
        file.write_bytes(content + END.encode())
        done = CliRunner().invoke(app, ["run", "-q", str(file)])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        self.seen[done.exit_code] += 1
        assert done.exit_code in (0, 2)
        assert "Traceback" not in done.output
        errors = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
        made = sorted((self.folder / "runs").glob("*/*/manifest.json"))
        if done.exit_code == 0:
            assert errors == []
            for manifest in made:
                btcbt.load_run(manifest.parent)
        else:
            assert done.stdout == ""
            (line,) = errors
            assert line.startswith("error: ")
            assert line.isprintable()
            assert len(line) < 1000
            assert made == []
        self.clean_up()

    def clean_up(self) -> None:
        """Only the folder of runs was written to; what is in it goes."""
        allowed = {self.folder / "experiment.yaml", self.folder / "candles.parquet"}
        runs = self.folder / "runs"
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if runs in path.parents or path == runs:
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
            else:
                assert path in allowed, path
        assert (self.folder / "candles.parquet").read_bytes() == self.candles


def run(
    folder: Path, history: Candles, monkeypatch: pytest.MonkeyPatch, examples: int, phases: list[Phase], part: int = 0
) -> Counter[int]:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(runner, "draw_figures", lambda *_: None)  # a second a run, whatever the experiment says
    fuzz = Fuzz(folder, history)

    @seed(part)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    @given(experiments().filter(lambda content: not any(word.encode() in content for word in SKIPPED)))
    def feed(content: bytes) -> None:
        fuzz.feed(content)

    feed()
    return fuzz.seen


def test_mutated_experiments_run_or_are_refused_in_one_line(
    tmp_path: Path, make_history: Callable[..., Candles], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = run(tmp_path, make_history(96), monkeypatch, 100, [Phase.generate, Phase.shrink])
    assert sum(seen.values()) >= 100
    assert set(seen) == {0, 2}


@pytest.mark.proof
@pytest.mark.parametrize("part", range(PARTS))
def test_five_thousand_mutated_experiments_run_or_are_refused_in_one_line(
    tmp_path: Path, make_history: Callable[..., Candles], monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    examples = 5000 // PARTS
    seen = run(tmp_path, make_history(96), monkeypatch, examples, [Phase.generate], part)
    assert sum(seen.values()) >= examples
    told = ", ".join(f"exit {code}: {n:,}" for code, n in sorted(seen.items()))
    sys.stdout.write(f"\nmutated experiments, part {part + 1} of {PARTS}: {told}\n")


def test_the_experiment_that_is_mutated_is_good(
    tmp_path: Path, make_history: Callable[..., Candles], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_candles(make_history(96), tmp_path / "candles.parquet")
    (tmp_path / "experiment.yaml").write_text(GOOD + END)
    run = btcbt.run("experiment.yaml")
    assert len(run.origins()) == 4
    assert set(run.manifest["forecasters"]) == {"random_walk", "ewma", "better"}
