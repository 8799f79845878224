"""A fit that is stopped goes on to the same files, to the last bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from btcbt.cli.main import app
from btcbt.errors import CheckpointError, ConfigError
from btcbt.files import replacing
from btcbt.models.kronos import KronosTokenizer
from btcbt.models.kronos.checkpoints.files import describe_pair, read_data_ranges, weights_digest, write_data_ranges
from btcbt.models.kronos.training.finetune import finetune
from btcbt.models.kronos.training.recipe import FinetuneConfig
from btcbt.models.kronos.training.state import FIT_FILE, STATE_FILE, FitFolder, Snapshot, fit_digest

KILLS = int(os.environ.get("BTCBT_KILLS", "20"))
RECIPE = """\
name: tiny
candles: ["bundled:BTCUSD_1h"]
start: {model: parent}
window: 24
context: [8, 16]
train: {start: 2019-01-15, end: 2019-03-01}
select: {start: 2019-03-10, end: 2019-03-12}
tokenizer: {steps: STEPS, batch_size: 4, learning_rate: 1.0e-3, select_every: 10, accumulate: 2}
model: {steps: STEPS, batch_size: 4, learning_rate: 1.0e-3, select_every: 10, schedule: one_cycle, patience: 50}
dropout: 0.2
save_every: 7
output: OUTPUT
"""


@pytest.fixture
def write(tmp_path, monkeypatch, tokenizer, model):
    """Write the recipe beside a tiny pair to start from, and go there."""
    monkeypatch.chdir(tmp_path)
    return writer(tokenizer, model)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokenizer, model):
    """The files of a fit that nobody stopped, by its number of steps."""
    done = {}

    def fitted(steps=14):
        if steps not in done:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(tmp_path_factory.mktemp("whole"))
                file = writer(tokenizer, model)("whole", steps)
                finished = run(file)
                assert finished.exit_code == 0, finished.stderr
                done[steps] = files("whole")
        return done[steps]

    return fitted


def writer(tokenizer, model):
    tokenizer.save_pretrained("parent/tokenizer")
    model.save_pretrained("parent/model")
    describe_pair(Path("parent"))
    write_data_ranges(Path("parent"), ())

    def recipe(folder, steps=14, change=("", "")):
        Path(folder).mkdir(exist_ok=True)
        file = Path(folder) / "recipe.yaml"
        text = RECIPE.replace("STEPS", str(steps)).replace("OUTPUT", f"{folder}/out").replace(*change)
        file.write_text(text)
        return file

    return recipe


def run(file, *options):
    return CliRunner().invoke(app, ["finetune", str(file), *options])


def files(folder):
    """Every file of a fit, by its place; the recipe names its own folder."""
    root = Path(folder) / "out"
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    recipe = json.loads(found.pop("recipe.json"))
    assert recipe.pop("output") == f"{folder}/out"
    return found | {"recipe.json": recipe}


def start(file):
    return subprocess.Popen(
        [sys.executable, "-m", "btcbt", "finetune", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def kill_when(process, ready, delay):
    """Whether the process was still there to be killed."""
    while process.poll() is None and not ready():
        time.sleep(0.002)
    try:
        process.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    assert process.returncode == 0
    return False


def test_a_fit_killed_twice_ends_as_one_that_was_not(write, whole, rng):
    file = write("killed", 40)
    out = Path("killed/out")
    killed = kill_when(start(file), (out / STATE_FILE).exists, float(rng.uniform(0, 0.1)))
    killed &= kill_when(start(file), (out / "tokenizer_loss.csv").exists, float(rng.uniform(0, 0.1)))
    assert killed
    assert not (out / "model_loss.csv").exists()
    again = run(file)
    assert again.exit_code == 0
    assert files("killed") == whole(40)
    assert not (out / STATE_FILE).exists()


@pytest.mark.proof
def test_kills_at_random_moments_change_no_bit_of_a_fit(write, whole, rng):
    began = time.monotonic()
    assert start(write("timed", 200)).wait() == 0
    usual = time.monotonic() - began
    kills = fits = 0
    while kills < KILLS:
        folder = f"killed-{fits}"
        file = write(folder, 200)
        for _ in range(min(5, KILLS - kills)):
            kills += kill_when(start(file), lambda: True, float(rng.uniform(0.2, 1.0)) * usual)
        assert run(file).exit_code == 0
        assert files(folder) == whole(200)
        fits += 1
    sys.stdout.write(f"\n{kills} kills over {fits} fits of {usual:.1f} s: every file identical\n")


@pytest.mark.parametrize("line", [3, 4, 8])
def test_a_fit_resumes_after_ctrl_c_at_any_line_of_progress(write, whole, line):
    file = write("stopped")
    config = load(file)
    seen = []

    def interrupt(text):
        seen.append(text)
        if len(seen) == line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(histories(config), config, interrupt)
    assert run(file).exit_code == 0
    assert files("stopped") == whole()


def load(file):
    from btcbt.config import load_config

    return load_config(file, FinetuneConfig)


def histories(config):
    from btcbt.candles import read_candles

    return {name: read_candles(name, config.interval) for name in config.candles}


def test_an_interrupt_exits_130_and_says_how_to_resume(write, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("btcbt.workflows.finetune.finetune", interrupt)
    done = run(write("stopped"))
    assert done.exit_code == 130
    assert "resume with: python -m btcbt finetune stopped/recipe.yaml" in done.stderr


def test_a_finished_fit_is_not_repeated(write):
    file = write("whole", 1)
    assert run(file).exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in Path("whole/out/model").iterdir()}
    done = run(file)
    assert done.exit_code == 0
    assert "this fit is already done" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in Path("whole/out/model").iterdir()} == before


def test_progress_may_be_for_programs_or_left_out(write):
    told = [json.loads(line) for line in run(write("fit"), "--log-json").stderr.splitlines()]
    assert told
    assert all(set(line) == {"note"} for line in told)
    assert run(write("other"), "--quiet").stderr == ""


def test_a_finished_stage_is_not_repeated(write):
    file = write("whole", 1)
    config = load(file)

    def stop(text):
        if text.startswith("model"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(histories(config), config, stop)
    lines = []
    finetune(histories(config), config, lines.append)
    assert not any(line.startswith("tokenizer") for line in lines)


def test_a_loss_that_is_no_number_exits_2_and_leaves_the_best_weights_before_it(write):
    file = write("broken", change=("learning_rate: 1.0e-3", "learning_rate: 1.0e+30"))
    done = run(file)
    assert done.exit_code == 2
    assert "error: tokenizer: the loss is nan at step" in done.stderr
    assert "the weights of step 0 (selection loss" in done.stderr
    out = Path("broken/out")
    assert weights_digest(KronosTokenizer.from_pretrained(out / "tokenizer")) == weights_digest(
        KronosTokenizer.from_pretrained("parent/tokenizer")
    )
    assert [one.use for one in read_data_ranges(out)] == ["finetuning", "selection"]
    assert not (out / "model").exists()
    assert json.loads((out / FIT_FILE).read_text())["finished"] == []
    assert run(file).exit_code == 2, "the stage is not taken for done"


@pytest.mark.parametrize(
    "change",
    [
        ("name: tiny\n", "name: tiny\nseed: 1\n"),
        ("learning_rate: 1.0e-3", "learning_rate: 2.0e-3"),
        ("end: 2019-03-01", "end: 2019-03-02"),
        ("start: {model: parent}", "start: {model: kronos-nano}"),
    ],
)
def test_a_changed_recipe_does_not_resume_another_s_state(write, change):
    assert run(write("one", 1)).exit_code == 0
    done = run(write("one", 1, change))
    assert done.exit_code == 2
    assert "one/out: holds the fit of another recipe" in done.stderr


@pytest.mark.parametrize("change", [("save_every: 7", "save_every: 3"), ("name: tiny", "name: other")])
def test_an_equivalent_recipe_continues_the_same_fit(write, change):
    assert run(write("one", 1)).exit_code == 0
    assert "already done" in run(write("one", 1, change)).stderr


def test_later_candles_do_not_make_another_fit(make_history):
    config = FinetuneConfig.model_validate(
        {
            "name": "x", "candles": ["a"], "window": 24, "context": [8, 16], "output": "o",
            "start": {"tokenizer": "kronos-nano"}, "model": {"steps": 1},
            "train": {"start": "2019-01-01", "end": "2019-01-10"},
            "select": {"start": "2019-01-12", "end": "2019-01-15"},
        }
    )  # fmt: skip
    long = make_history(24 * 20)
    short = type(long)(long.open_time[: 24 * 15], long.values[: 24 * 15], long.interval_ms, "short", "another file")
    assert fit_digest(config, {"a": long}, ()) == fit_digest(config, {"a": short}, ())
    shorter = type(long)(long.open_time[: 24 * 13], long.values[: 24 * 13], long.interval_ms)
    assert fit_digest(config, {"a": long}, ()) != fit_digest(config, {"a": shorter}, ())


def test_a_checkpoint_of_another_origin_is_not_overwritten(tmp_path, model):
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="holds a checkpoint that this recipe did not make"):
        FitFolder(tmp_path, "d")


def test_a_damaged_state_is_named(tmp_path):
    folder = FitFolder(tmp_path, "d")
    folder.save("model", Snapshot({"a": 1}, {"x": torch.ones(3)}))
    assert folder.load("model").values["a"] == 1
    assert folder.load("tokenizer") is None
    path = tmp_path / STATE_FILE
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="broken state of a fit"):
        FitFolder(tmp_path, "d").load("model")


def test_a_state_of_another_fit_is_not_loaded(tmp_path):
    FitFolder(tmp_path, "d").save("model", Snapshot({}, {"x": torch.ones(3)}))
    (tmp_path / FIT_FILE).unlink()
    assert FitFolder(tmp_path, "e").load("model") is None


def test_what_a_kill_left_behind_is_cleared_and_nothing_else(tmp_path):
    FitFolder(tmp_path, "d")
    others = {".cache.tmp", ".writing-notes", "data/.part.0123abcd.tmp", "model/.mine.tmp", ".0123abcd.0123abcd.tmp/x"}
    ours = {"model/.writing-a1b2_c3d/config.json", f".{STATE_FILE}.0123abcd.tmp", f".{FIT_FILE}.89abcdef.tmp"}
    for name in others | ours:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half")
    FitFolder(tmp_path, "d")
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {FIT_FILE} | others
    assert not list(tmp_path.rglob(".writing-a*"))


def test_a_folder_that_held_no_fit_keeps_all_that_is_in_it(tmp_path):
    others = {".download.0123abcd.tmp", "model/.writing-abcd1234/x"}
    for name in others | {f".{FIT_FILE}.0123abcd.tmp"}:  # the last: killed before the folder was marked
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("somebody's")
    FitFolder(tmp_path, "d")
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {FIT_FILE} | others


def test_an_output_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(ConfigError, match=rf"{place}: a fit cannot be written there \(.*\); make room, or choose"):
            FitFolder(place, "d")
    assert (tmp_path / "file").read_text() == "mine"
    folder = FitFolder(tmp_path / "out", "d")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("btcbt.models.kronos.training.state.save_file", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        folder.save("model", Snapshot({}, {"x": torch.ones(3)}))


def test_a_failed_write_leaves_the_file_of_before(tmp_path):
    path = tmp_path / "x"
    with replacing(path) as file:
        file.write_text("old", encoding="utf-8")
    with pytest.raises(UnicodeEncodeError), replacing(path) as file:
        file.write_text("\ud800", encoding="utf-8")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_state_is_kept_by_a_process_that_only_takes_part(tmp_path):
    folder = FitFolder(tmp_path / "none", "d", writes=False)
    folder.save("model", Snapshot({}, {"x": torch.ones(3)}))
    folder.finish("model")
    assert not (tmp_path / "none").exists()
