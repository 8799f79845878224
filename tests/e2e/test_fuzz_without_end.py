"""Changed files of every kind, as long as there is time: each command succeeds, or ends in one line.

``make proof`` tries each target for ``BTCBT_FUZZ_SECONDS``, from the seed ``BTCBT_FUZZ_SEED`` on or a new one, and
prints what became of the tries and the seeds of those that failed. A handful of seeds runs with every test run.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import btcbt
from btcbt.candles import make_candles, write_candles
from btcbt.cli.main import app
from btcbt.errors import BtcbtError
from btcbt.records import Candles, DataRange
from btcbt.storage.forecasts import _checksum, shard_named
from btcbt.walkforward import runner
from tests.e2e.mutations import mutate_bytes, mutate_file, mutate_yaml, pick
from tests.e2e.test_experiment_fuzz import GOOD
from tests.tiny_kronos import save_tiny
from tests.unit.candles.test_fuzz import GOOD as CANDLE_FILES

SECONDS = float(os.environ.get("BTCBT_FUZZ_SECONDS", "60"))
FIRST_SEED = os.environ.get("BTCBT_FUZZ_SEED")
LONGEST = 8
"""Seconds of processor time after which a command is interrupted as by Ctrl-C: what is asked for may be much work."""
HANGS = 300
"""Seconds after which it hangs."""
START = 1_546_300_800_000  # 2019-01-01T00:00Z
EXPERIMENT = (
    GOOD.replace("placebos: 0", "placebos: 2")
    + "hypotheses: {edge: {kind: forecast, forecaster: ewma, opponent: random_walk}}\nstore: {root: runs}\n"
)
RECIPE = """\
name: tiny
candles: [candles.parquet]
start: {model: tiny}
window: 12
context: [4, 8]
train: {start: 2019-01-01, end: 2019-01-03}
select: {start: 2019-01-03T12:00:00Z, end: 2019-01-04T12:00:00Z}
tokenizer: {steps: 1, batch_size: 1, learning_rate: 1.0e-3, select_every: 1}
model: {steps: 1, batch_size: 1, learning_rate: 1.0e-3, select_every: 1, schedule: one_cycle, patience: 50}
dropout: 0.2
save_every: 1
output: fitted
"""
SWEEP = """\
name: grid
experiment: experiment.yaml
strategies: [threshold]
over:
  strategies.threshold.params.entry_bps: [5, 20]
  forecasters.ewma.decay: {from: 0.8, to: 0.9, steps: 2, log: true}
search: {trials: 3, seed: 1}
select: {by: sharpe, train: 12h, trade: 6h}
"""
Try = Callable[[Path, np.random.Generator], list[list[str]]]


def one_of(folder: Path, *patterns: str) -> Callable[[np.random.Generator], Path]:
    files = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    assert files, patterns
    return lambda rng: pick(rng, files)


def experiments(folder: Path, rng: np.random.Generator) -> list[list[str]]:
    file = folder / "experiment.yaml"
    *text, store = EXPERIMENT.encode().splitlines()  # where a user lets runs be written is for him to say
    file.write_bytes(mutate_yaml(rng, b"\n".join(text)) + b"\n" + store + b"\n")
    return [["run", "-q", "experiment.yaml"]]


def candles(folder: Path, rng: np.random.Generator) -> list[list[str]]:
    stored = (folder / "candles.parquet").read_bytes()
    name = pick(rng, [*CANDLE_FILES, "candles.parquet", "candles.parquet"])
    (folder / name).write_bytes(mutate_bytes(rng, CANDLE_FILES.get(name, stored)))
    forecast = ["predict", name, "--forecaster", "random_walk", "--context", "8", "--horizon", "2", "--paths", "2"]
    checks = [["data", "check", name], ["data", "import", name, "--output", "new.parquet", "--repair"], forecast]
    return [*checks, ["run", "-q", "experiment.yaml"]] if name == "candles.parquet" else checks


def checkpoints(folder: Path, rng: np.random.Generator) -> list[list[str]]:
    mutate_file(rng, one_of(folder, "tiny/**/*")(rng))
    forecast = ["predict", "candles.parquet", "--context", "8", "--horizon", "2", "--paths", "2"]
    return [pick(rng, [[*forecast, "--checkpoint", "tiny"], ["card", "tiny"], ["finetune", "recipe.yaml"]])]


def shards(folder: Path, rng: np.random.Generator) -> list[list[str]]:
    path = one_of(folder, "runs/store/*/*")(rng)
    before = shard_named(path)
    mutate_file(rng, path)
    if before is not None and path.is_file() and rng.random() < 0.7:  # as a forger would name it
        content = path.read_bytes()
        path.rename(path.with_name(f"{before.first}-{before.last}-{_checksum(content)}.parquet"))
    return [["store", pick(rng, ["ls", "verify", "gc"])], ["run", "-q", "experiment.yaml"]]


def run_directories(folder: Path, rng: np.random.Generator) -> list[list[str]]:
    for _ in range(int(rng.integers(1, 3))):
        places = ("runs/small/*/*", "runs/small/*/forecasts/*/*", "runs/trials.jsonl", "runs/store/trials/*")
        mutate_file(rng, one_of(folder, *places)(rng))
    check = ["check", "runs/small", "--baseline", "baseline.json"]
    return [pick(rng, [["report", "runs/small"], check, ["store", "gc"], ["run", "-q", "experiment.yaml"]])]


def recipes(folder: Path, rng: np.random.Generator) -> list[list[str]]:
    *text, output = RECIPE.encode().splitlines()
    (folder / "recipe.yaml").write_bytes(mutate_yaml(rng, b"\n".join(text)) + b"\n" + output + b"\n")
    return [["finetune", "recipe.yaml"]]


def fits(folder: Path, rng: np.random.Generator) -> list[list[str]]:
    mutate_file(rng, one_of(folder, "fitted/**/*")(rng))
    return [["finetune", "recipe.yaml"], ["card", "fitted"]]


def registrations(folder: Path, rng: np.random.Generator) -> list[list[str]]:
    mutate_file(rng, one_of(folder, "runs/registrations/*/*.json")(rng))
    return [["register", "experiment.yaml"], ["run", "-q", "experiment.yaml"]]


def sweeps(folder: Path, rng: np.random.Generator) -> list[list[str]]:
    (folder / "sweep.yaml").write_bytes(mutate_yaml(rng, SWEEP.encode()))
    return [["sweep", "-q", "sweep.yaml"]]


def baselines(folder: Path, rng: np.random.Generator) -> list[list[str]]:
    mutate_file(rng, folder / pick(rng, ["baseline.json", "tolerances.yaml"]))
    return [["check", "runs/small", "--baseline", "baseline.json", "--tolerances", "tolerances.yaml"]]


TARGETS: dict[str, Try] = {
    one.__name__: one
    for one in (
        *(experiments, candles, checkpoints, shards, run_directories),
        *(recipes, fits, registrations, sweeps, baselines),
    )
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, sample_candles: Candles) -> Path:
    """A folder with one of everything, as btcbt wrote it."""
    folder = tmp_path_factory.mktemp("good")
    first = int(np.searchsorted(sample_candles.open_time, START))
    rows = slice(first, first + 96)
    history = make_candles(sample_candles.open_time[rows], sample_candles.values[rows], interval="1h")
    write_candles(history, folder / "candles.parquet")
    files = {"experiment.yaml": EXPERIMENT.replace("name: fuzz", "name: small"), "recipe.yaml": RECIPE}
    files |= {"sweep.yaml": SWEEP, "tolerances.yaml": "rules:\n  - {match: 'forecast.*', relative: 0.1, worse: any}\n"}
    for name, text in files.items():
        (folder / name).write_text(text)
    save_tiny(folder / "tiny", (DataRange("pretraining", 0, 1_000),))
    with without_figures(folder):
        for arguments in (
            *(["register", "experiment.yaml"], ["run", "-q", "experiment.yaml"], ["finetune", "recipe.yaml"]),
            ["check", "runs/small", "--baseline", "baseline.json", "--update"],
        ):
            assert command(arguments) == 0
    return folder


@contextmanager
def without_figures(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(runner, "draw_figures", lambda *_: None)  # a second a run, whatever the files say
        yield


def command(arguments: list[str]) -> int:
    """The exit code, if it is a documented one, with one line that says what is wrong if something is."""
    done = CliRunner().invoke(app, arguments)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert "Traceback" not in done.output
    assert done.output.replace("\n", "").isprintable()
    assert done.exit_code in (0, 1, 2, 130), done.output
    *before, last = done.stderr.splitlines() or [""]
    assert not any(line.startswith("error: ") for line in before), before
    assert last.startswith("error: ") == (done.exit_code == 2), done.stderr
    assert len(last) < 1500
    return done.exit_code


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Ctrl-C for whoever has worked for so long, and a failure for whoever waits for something."""

    def hung(*_: object) -> None:
        raise TimeoutError(f"nothing came of it in {HANGS} s")

    handlers = {signal.SIGPROF: lambda *_: signal.raise_signal(signal.SIGINT), signal.SIGALRM: hung}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, HANGS)
    try:
        yield
    finally:
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def attempt(target: str, good: Path, folder: Path, seed: int) -> list[int]:
    """One try: a copy of what is good, a change, and the commands that read it. Their exit codes."""
    shutil.copytree(good, folder, symlinks=True)
    rng = np.random.default_rng([list(TARGETS).index(target), seed])
    codes = []
    try:
        with without_figures(folder):
            for arguments in TARGETS[target](folder, rng):
                try:
                    with interrupted_after(LONGEST):
                        codes.append(command(arguments))
                except KeyboardInterrupt:  # after the command had ended
                    codes.append(130)
            if target == "run_directories":
                read_everything(folder)
    finally:
        shutil.rmtree(folder)
    return codes


def read_everything(folder: Path) -> None:
    """What Python offers of the runs, whole or not."""
    for manifest in sorted(folder.glob("runs/small/*/manifest.json")):
        try:
            run = btcbt.load_run(manifest.parent)
        except BtcbtError:
            continue
        reads = [run.origins, run.targets, run.equity, run.trades, run.orders, run.scores, run.losses, run.candles]
        for read in [*reads, lambda run=run: [run.forecasts(name).paths() for name in run.manifest["forecasters"]]]:
            try:
                read()
            except BtcbtError:
                continue


def where(error: BaseException) -> str:
    """The error and the line of the package that raised it: what several seeds have in common."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/btcbt/" in frame.filename]
    last = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {last}: {' '.join(str(error).split())[:120]}"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(2))
def test_a_few_changed_files_are_read_or_refused_in_one_line(
    good: Path, tmp_path: Path, target: str, seed: int
) -> None:
    assert attempt(target, good, tmp_path / "try", seed)


@pytest.mark.proof
@pytest.mark.parametrize("target", TARGETS)
def test_changed_files_are_read_or_refused_in_one_line_for_as_long_as_there_is_time(
    good: Path, tmp_path: Path, target: str
) -> None:
    first = seed = int(FIRST_SEED) if FIRST_SEED else secrets.randbelow(10**9)
    seen: Counter[int] = Counter()
    failed: dict[str, list[int]] = {}
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            seen.update(attempt(target, good, tmp_path / "try", seed))
        except Exception as error:  # noqa: BLE001 - every kind is counted, and fails the test
            failed.setdefault(where(error), []).append(seed)
        seed += 1
    codes = ", ".join(f"exit {code}: {n:,}" for code, n in sorted(seen.items()))
    failures = sum(map(len, failed.values()))
    print(f"\n{target}: {seed - first:,} tries from seed {first}; {codes}; {failures} failures")
    for what, seeds in failed.items():
        print(f"  {len(seeds)} x {what}; seeds {seeds[:5]}")
    assert not failed
