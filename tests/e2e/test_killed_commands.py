"""Commands that are killed, before a call that changes files or at any moment, and started again.

Each ends with the same files, bit for bit, as one that nobody killed: refits, fine-tuning, calibrated walks, audits,
sweeps, placebos, reports and remote stores. After each kill nothing is half there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import requests
from pyarrow import fs

import btcbt
from btcbt.files import TEMPORARY
from btcbt.records import DataRange
from tests.e2e.killable import Command
from tests.tiny_kronos import save_tiny

KILLS = int(os.environ.get("BTCBT_KILLS", "56"))
"""Of the proof, over all commands."""
KILLS_A_RUN = 4
MAY = 1_556_668_800_000  # 2019-05-01T00:00Z
TIMED = re.compile(r"(^|/)(manifest\.json|report\.html|\.lock)$")
"""Files with times of day or durations in them. Pages are compared on their own, where the run is the same."""
TIMES = ("recorded", "seconds", "finished")
BUCKET = "forecasts"

EXPERIMENT = """\
name: small
candles: {path: "bundled:BTCUSD_1h"}
windows: {start: 2019-06-01, end: 2019-06-03, context: 24, horizon: 4}
forecasters:
  random_walk: {kind: random_walk, n_paths: 4}
  MORE
strategies:
  threshold: {use: threshold, params: {entry_bps: 10.0}}
placebos: PLACEBOS
store: {STORE, shard_size: 12}
seed: 3
"""
LOCAL = "root: runs"
CALIBRATED = "better: {kind: calibrated, base: random_walk}"
REFITTED = """\
monthly:
    {kind: kronos, checkpoint: tiny, n_paths: 2, device: cpu,
     refit: {every: 24h, train_window: 240h, select_window: 72h, steps: 4, batch_size: 2, dropout: 0.1}}
"""
RECIPE = """\
name: tiny
candles: ["bundled:BTCUSD_1h"]
start: {model: tiny}
window: 24
context: [8, 16]
train: {start: 2019-01-15, end: 2019-03-01}
select: {start: 2019-03-10, end: 2019-03-12}
tokenizer: {steps: 12, batch_size: 4, select_every: 6}
model: {steps: 12, batch_size: 4, select_every: 6}
save_every: 3
output: fitted
"""
SWEEP = """\
name: grid
experiment: experiment.yaml
strategies: [threshold]
over:
  strategies.threshold.params.entry_bps: [5, 20]
  forecasters.random_walk.n_paths: [4, 6]
"""
Files = dict[str, bytes]


def experiment(more: str = "", store: str = LOCAL, placebos: int = 0) -> str:
    text = EXPERIMENT.replace("MORE", more).replace("STORE", store).replace("PLACEBOS", str(placebos))
    return "\n".join(line for line in text.splitlines() if line.strip())


@dataclass(frozen=True)
class Case:
    """A command, the files that it needs, and what must be equal in the end."""

    command: list[str]
    written: Mapping[str, str]
    tiny: bool = False
    before: list[str] = field(default_factory=list)
    remote: bool = False
    same_run: bool = False  # the run is there before; its page and the output are compared, too


RUN = ["run", "-q", "experiment.yaml"]
CASES = {
    "refit": Case(RUN, {"experiment.yaml": experiment(REFITTED)}, tiny=True),
    "finetune": Case(["finetune", "recipe.yaml"], {"recipe.yaml": RECIPE}, tiny=True),
    "calibrated": Case(RUN, {"experiment.yaml": experiment(CALIBRATED)}),
    "audit": Case(
        ["audit", "-q", "experiment.yaml", "--sample", "4"],
        {"experiment.yaml": experiment(CALIBRATED)},
        before=RUN,
        same_run=True,
    ),
    "sweep": Case(
        ["sweep", "-q", "sweep.yaml"],
        {"experiment.yaml": experiment(), "sweep.yaml": SWEEP},
    ),
    "placebos": Case(RUN, {"experiment.yaml": experiment(placebos=12)}),
    "report": Case(["report", "runs/small"], {"experiment.yaml": experiment()}, before=RUN, same_run=True),
    "remote": Case(RUN, {"experiment.yaml": experiment(store=f"root: 's3://{BUCKET}/btc', local: runs")}, remote=True),
}


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[dict[str, str], fs.S3FileSystem]]:
    """A server that speaks S3, with the environment of who uses it."""
    server = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'btcbt[dev]'")
    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    names = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        system = fs.S3FileSystem(
            endpoint_override=f"{host}:{port}", scheme="http", region="us-east-1", allow_bucket_creation=True
        )
        yield names, system
    moto.stop()


class Bench:
    """Folders in which a case runs, all equal at first."""

    def __init__(self, folder: Path, case: Case, remote: tuple[dict[str, str], fs.S3FileSystem] | None) -> None:
        self.folder, self.case, self.remote, self.made = folder, case, remote, 0
        first = folder / "first"
        first.mkdir()
        for name, text in case.written.items():
            (first / name).write_text(text)
        if case.tiny:
            save_tiny(first / "tiny", (DataRange("pretraining", 0, MAY),))
        if case.before:
            assert self.start(first, case.before).wait() == 0, first.with_suffix(".txt").read_text()

    def start(self, folder: Path, command: list[str] | None = None, at: int = 0) -> Command:
        return Command(folder, command or self.case.command, at, self.remote[0] if self.remote else None)

    def fresh(self) -> Path:
        folder = self.folder / f"try-{self.made}" / "folder"
        self.made += 1
        shutil.copytree(self.folder / "first", folder, symlinks=True)
        if self.remote:
            requests.post(f"{self.remote[0]['AWS_ENDPOINT_URL']}/moto-api/reset", timeout=10)
            self.remote[1].create_dir(BUCKET)
        return folder

    def finish(self, folder: Path) -> tuple[Files, int]:
        """Run to the end; what is there then, and how many calls it took."""
        command = self.start(folder)
        code = command.wait()
        output = command.output.read_text()
        assert code == 0, output
        found = self.snapshot(folder)
        if self.case.same_run:
            found["output"] = re.sub(r" in \d+ s", "", output.replace(str(folder), "")).encode()
        return found, command.calls

    def snapshot(self, folder: Path) -> Files:
        """Every file without times in it, by its name; forecasts as arrays, whichever shards they lie in."""
        found: Files = {}
        for path in folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            if not path.is_file() or any(TEMPORARY.fullmatch(part) for part in path.relative_to(folder).parts):
                continue
            if "/latest/" in f"/{name}" or (TIMED.search(name) and not (self.case.same_run and "report" in name)):
                continue
            if name.endswith("trials.jsonl"):
                found[name] = b"\n".join(without_times(json.loads(line)["trial"]) for line in path.open())
            elif name.endswith("audit.json") or "/audits/" in name:
                found[name] = without_times(json.loads(path.read_bytes()))
            elif not re.search(r"[0-9]+-[0-9]+-[0-9a-f]{32}\.parquet$", name):
                found[name] = path.read_bytes()
        for run in runs(folder):
            for name in run.manifest["forecasters"]:
                found[f"{run.directory.name}/{name}"] = run.forecasts(name).paths().tobytes()
        if self.remote:
            listed = self.remote[1].get_file_info(fs.FileSelector(BUCKET, recursive=True))
            for info in listed:
                if info.type == fs.FileType.File:
                    with self.remote[1].open_input_stream(info.path) as stream:
                        found[info.path] = stream.read()
        return found


def runs(folder: Path) -> list[btcbt.Run]:
    found = sorted((folder / "runs").glob("*/*/metrics.json")) if (folder / "runs").is_dir() else []
    places = [path.parent for path in found if not path.parent.is_symlink()]
    return [
        btcbt.load_run(place)
        for place in places
        if not TEMPORARY.fullmatch(place.name) and "config" in json.loads((place / "manifest.json").read_text())
    ]


def without_times(tree: dict[str, object]) -> bytes:
    return json.dumps({key: value for key, value in tree.items() if key not in TIMES}).encode()


def nothing_is_half_there(folder: Path) -> None:
    """Every run that shows is whole, and ``latest`` points to one."""
    for run in runs(folder):
        for name in run.manifest["forecasters"]:
            assert len(run.forecasts(name)) == len(run.origins())
        assert (run.directory / "report.html").read_text().rstrip().endswith("</html>")
    for pointer in folder.glob("runs/*/latest"):
        assert pointer.exists(), f"{pointer} points to nothing"


def assert_same(found: Files, whole: Files) -> None:
    assert found.keys() == whole.keys()
    assert [name for name in whole if found[name] != whole[name]] == []


def kill_at_calls(bench: Bench, whole: Files, calls: list[int], a_run: int = KILLS_A_RUN) -> int:
    """Kill runs before these calls, a few in each folder; whether each ends as the whole one. The kills."""
    kills = 0
    for start in range(0, len(calls), a_run):
        folder = bench.fresh()
        for at in calls[start : start + a_run]:
            killed = bench.start(folder, at=at).wait() != 0
            kills += killed
            nothing_is_half_there(folder)
        assert_same(bench.finish(folder)[0], whole)
    return kills


def kill_at_moments(bench: Bench, whole: Files, moments: list[float]) -> int:
    """The same after so many seconds each."""
    kills = 0
    for start in range(0, len(moments), KILLS_A_RUN):
        folder = bench.fresh()
        for seconds in moments[start : start + KILLS_A_RUN]:
            command = bench.start(folder)
            command.wait(seconds)
            kills += command.kill()
            nothing_is_half_there(folder)
        assert_same(bench.finish(folder)[0], whole)
    return kills


def test_a_calibrated_walk_killed_six_times_ends_as_one_that_nobody_killed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, CASES["calibrated"], None)
    whole, calls = bench.finish(bench.fresh())
    kills = [calls // 12, calls // 6, calls // 4, calls // 3, calls // 4, calls // 5]
    assert kill_at_calls(bench, whole, kills, a_run=6) == 6


@pytest.mark.proof
@pytest.mark.parametrize("name", CASES)
def test_commands_killed_again_and_again_end_as_those_that_nobody_killed(
    tmp_path: Path, rng: np.random.Generator, request: pytest.FixtureRequest, name: str
) -> None:
    case = CASES[name]
    bench = Bench(tmp_path, case, request.getfixturevalue("s3") if case.remote else None)
    whole, calls = bench.finish(bench.fresh())
    assert calls >= 2
    assert_same(bench.finish(bench.fresh())[0], whole)
    wanted = -(-KILLS // len(CASES))
    at_calls = at_moments = 0
    while at_calls + at_moments < wanted:
        at_calls += kill_at_calls(bench, whole, rng.integers(1, calls + 1, KILLS_A_RUN).tolist())
        began = time.monotonic()
        bench.finish(bench.fresh())
        usual = time.monotonic() - began
        at_moments += kill_at_moments(bench, whole, (usual * rng.uniform(0.1, 1.0, KILLS_A_RUN)).tolist())
    print(
        f"\n{name}: {at_calls} kills before one of {calls} calls that change files, {at_moments} at random moments of "
        f"{usual:.1f} s: every file identical"
    )
