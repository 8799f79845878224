"""Cards with the scores of a run, and uploads to a stand-in for the hub that speaks its HTTP."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from btcbt import run
from btcbt.cli.main import app
from btcbt.config import RunConfig
from btcbt.errors import CheckpointError, ConfigError
from btcbt.models.kronos import KronosTokenizer
from btcbt.models.kronos.checkpoints.card import write_model_card
from btcbt.models.kronos.checkpoints.files import weights_digest
from btcbt.models.kronos.checkpoints.locate import fitted_context
from btcbt.workflows.publish import evaluate_from_run, push, uploadable
from tests.tiny_kronos import save_tiny
from tests.unit.workflows.hub_server import TOKEN, HubServer


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = save_tiny(tmp_path / "checkpoint")
    write_model_card(folder)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A running stand-in that the hub's library takes for the hub, with a token that may write to ``me/``."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    constants = "huggingface_hub.constants."
    monkeypatch.setattr(f"{constants}ENDPOINT", server.address)
    template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(f"{constants}HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(f"{constants}HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(f"{constants}HF_TOKEN_PATH", str(tmp_path / "no-login"))
    monkeypatch.setattr(f"{constants}HF_HUB_DISABLE_XET", True)  # its content server is another protocol
    monkeypatch.setattr(f"{constants}HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_pushed_comes_back_from_the_hub_with_the_same_weights(hub: HubServer, checkpoint: Path) -> None:
    from btcbt.forecasters.kronos import load_checkpoint
    from btcbt.models.kronos.checkpoints.files import resolve_folder

    where = push(checkpoint, "me/tiny", private=True)
    repository = hub.repositories["me/tiny"]
    assert repository.private
    assert where == f"{hub.address}/me/tiny/commit/{repository.sha('main')}"
    stored = {name: hashlib.sha256(content).hexdigest() for name, content in repository.branches["main"].items()}
    assert stored == contents(checkpoint)
    assert [path for method, path in hub.requests if "/commit/" in path] == ["/api/models/me/tiny/commit/main"]

    back, here = load_checkpoint("me/tiny"), load_checkpoint(str(checkpoint))
    for ours, theirs in zip(here[:2], back[:2], strict=True):
        assert weights_digest(ours) == weights_digest(theirs)
    assert back.ranges == here.ranges
    folder = resolve_folder("me/tiny")
    assert {name: stored[name] for name in contents(folder)} == contents(folder)
    assert folder.is_relative_to(checkpoint.parent / "cache")


def test_a_checkpoint_from_the_hub_knows_the_context_that_it_was_fitted_with(hub: HubServer, checkpoint: Path) -> None:
    (checkpoint / "recipe.json").write_text('{"name": "tiny", "context": [10, 30]}')
    push(checkpoint, "me/tiny")
    assert fitted_context("me/tiny") == 30


def test_a_second_push_changes_what_has_changed_and_a_branch_is_made_when_asked_for(
    hub: HubServer, checkpoint: Path
) -> None:
    push(checkpoint, "me/tiny")
    (checkpoint / "recipe.json").write_text('{"name": "again"}')
    push(checkpoint, "me/tiny", revision="trial")
    repository = hub.repositories["me/tiny"]
    assert repository.branches["trial"]["recipe.json"] == b'{"name": "again"}'
    assert "recipe.json" not in repository.branches["main"]
    push(checkpoint, "me/tiny", revision="trial")
    assert len(repository.messages) == 3


def test_the_command_says_where_it_went(hub: HubServer, checkpoint: Path) -> None:
    result = CliRunner().invoke(app, ["push", str(checkpoint), "--repo", "me/tiny"])
    assert result.exit_code == 0, result.output
    assert f"uploaded: {hub.address}/me/tiny/commit/" in result.output
    assert TOKEN not in result.output


@pytest.mark.parametrize(
    ("part", "status", "says"),
    [
        ("/api/repos/create", 401, "hub: 401 for me/tiny: the token is invalid"),
        ("/api/repos/create", 403, "hub: 403 for me/tiny: the token may not write to 'me/tiny'"),
        (
            "/commit/",
            409,
            "hub: 409 for me/tiny: the repository is being changed by another commit; run the command again",
        ),
        ("/commit/", 403, "hub: 403 for me/tiny: the token may not write"),
        ("/commit/", 404, "hub: 404 for me/tiny: no such repository or branch"),
        ("/lfs/", 403, "hub: 403 for me/tiny"),
        ("/commit/", 418, "hub: 418 for me/tiny: refused Bearer ***; try again later"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line_without_the_token_and_exit_code_2(
    hub: HubServer, checkpoint: Path, part: str, status: int, says: str
) -> None:
    hub.refuse[part] = status
    result = CliRunner().invoke(app, ["push", str(checkpoint), "--repo", "me/tiny"])
    assert result.exit_code == 2
    assert result.output.splitlines()[-1].startswith(f"error: {says}")
    assert TOKEN not in result.output
    assert not hub.repositories.get("me/tiny") or not hub.repositories["me/tiny"].branches["main"]


def test_a_namespace_of_somebody_else_a_wrong_token_and_a_dead_server_are_told_apart(
    hub: HubServer, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="hub: 403 for you/tiny: the token may not write to 'you/tiny'"):
        push(checkpoint, "you/tiny")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ConfigError, match="hub: 401 for me/tiny"):
        push(checkpoint, "me/tiny")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(ConfigError, match=r"hub: cannot be reached for me/tiny .*check the network") as caught:
        push(checkpoint, "me/tiny", endpoint="http://127.0.0.1:9")
    assert TOKEN not in str(caught.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="no token for the hub; set HF_TOKEN"):
        push(checkpoint, "me/tiny")
    with pytest.raises(ConfigError, match="expected OWNER/NAME"):
        push(checkpoint, "../tiny")
    assert not hub.repositories


def test_a_folder_that_is_no_checkpoint_is_not_uploaded(checkpoint: Path, tmp_path: Path) -> None:
    assert len(uploadable(checkpoint)) == 7
    with pytest.raises(CheckpointError, match="no such folder"):
        uploadable(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no model.safetensors in it"):
        uploadable(tmp_path / "empty")
    (checkpoint / "README.md").unlink()
    with pytest.raises(CheckpointError, match=r"README.md is missing; write one with: btcbt card"):
        uploadable(checkpoint)
    write_model_card(checkpoint)
    (checkpoint / "tokenizer" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer/config.json is missing"):
        uploadable(checkpoint)


@pytest.mark.parametrize("name", [".env", "model/optimizer.pt", "notes.txt", "data/candles.parquet", ".git/config"])
def test_a_foreign_file_stops_the_upload_before_anything_is_sent(hub: HubServer, checkpoint: Path, name: str) -> None:
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).write_text("secret")
    with pytest.raises(CheckpointError, match="not a file of a checkpoint, so nothing is uploaded"):
        push(checkpoint, "me/tiny")
    assert not hub.requests


def test_a_link_out_of_the_folder_stops_the_upload(hub: HubServer, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (checkpoint / "recipe.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(CheckpointError, match=r"a link to .*secret.json, outside the checkpoint"):
        push(checkpoint, "me/tiny")
    (checkpoint / "recipe.json").unlink()
    (tmp_path / "away").mkdir()
    (checkpoint / "away").symlink_to(tmp_path / "away", target_is_directory=True)
    with pytest.raises(CheckpointError, match="outside the checkpoint"):
        push(checkpoint, "me/tiny")
    assert not hub.requests


def experiment(root: Path, checkpoint: Path) -> RunConfig:
    tree = {
        "name": "named",
        "candles": {"path": "bundled:BTCUSD_1h"},
        "windows": {"context": 20, "horizon": 4, "start": "2019-06-01", "end": "2019-06-03"},
        "forecasters": {"tiny": {"kind": "kronos", "checkpoint": str(checkpoint), "n_paths": 2}},
        "store": {"root": str(root)},
    }
    return RunConfig.model_validate(tree, strict=False)


def test_a_card_with_a_run_names_scores_interval_baseline_and_label(checkpoint: Path, tmp_path: Path) -> None:
    import yaml

    from btcbt.metrics.inference import diebold_mariano

    done = run(experiment(tmp_path / "runs", checkpoint))
    result = CliRunner().invoke(app, ["card", str(checkpoint), "--metrics", str(tmp_path / "runs" / "named")])
    assert result.exit_code == 0, result.output
    text = (checkpoint / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    results = front["model-index"][0]["results"][0]
    crps = {one["type"]: one for one in results["metrics"]}["crps_bps.close.h4"]
    assert crps["value"] == pytest.approx(done.metrics["forecast.tiny.crps_bps.close.h4"], abs=1e-6)
    assert results["dataset"]["args"]["labels"] == {"clean": 48}
    assert crps["args"]["baseline"] == "random_walk"

    evaluation = evaluate_from_run(checkpoint, done.directory)
    score = next(one for one in evaluation.scores if one.key == "crps_bps.close.h4")
    losses = close_losses(done, "tiny"), close_losses(done, "random_walk")
    low, high = diebold_mariano(*losses, 4).interval()
    assert (score.low, score.high) == pytest.approx((low, high), rel=1e-4)
    assert f"({low:+.2f} .. {high:+.2f})" in text
    assert "48 `clean`" in text
    assert "`random_walk`" in text
    coverage = next(one for one in evaluation.scores if one.key == "coverage90.close.h4")
    assert 0 <= coverage.value <= 100
    assert math.isnan(coverage.low)


def close_losses(done: object, name: str) -> np.ndarray:
    """CRPS of the log return to the last step's close in basis points, by its definition."""
    from btcbt.candles import read_candles
    from btcbt.windows import make_windows

    windows = make_windows(read_candles("bundled:BTCUSD_1h"), done.config.windows)  # type: ignore[attr-defined]
    outcomes = windows.outcomes(slice(None))[:, -1, 3]
    last = windows.contexts(slice(None))[:, -1, 3]
    sampled = done.forecasts(name).paths()[:, :, -1, 3].astype(np.float64)  # type: ignore[attr-defined]
    paths, outcomes = 1e4 * np.log(sampled / last[:, None]), 1e4 * np.log(outcomes / last)
    pairs = np.abs(paths[:, :, None] - paths[:, None, :])
    n = paths.shape[1]
    return np.abs(paths - outcomes[:, None]).mean(axis=1) - pairs.sum(axis=(1, 2)) / (2 * n * (n - 1))


def test_a_run_with_other_weights_lends_a_card_no_scores(checkpoint: Path, tmp_path: Path) -> None:
    run(experiment(tmp_path / "runs", checkpoint))
    other = Path(__file__).parents[3] / "btcbt/models/kronos/nano"
    with pytest.raises(ConfigError, match=r"none of its forecasters \(random_walk, tiny\) has the weights"):
        evaluate_from_run(other, tmp_path / "runs" / "named")
    before = (checkpoint / "README.md").read_text()
    result = CliRunner().invoke(app, ["card", str(checkpoint), "--metrics", str(tmp_path / "nothing")])
    assert result.exit_code == 2
    assert (checkpoint / "README.md").read_text() == before


def test_scores_are_those_of_the_forecaster_with_both_networks_or_of_the_one_that_is_named(
    checkpoint: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(checkpoint / "tokenizer", tmp_path / "other")
    tokenizer = KronosTokenizer.from_pretrained(other)
    with torch.no_grad():
        tokenizer.head.bias += 0.5
    tokenizer.save_pretrained(other)
    tree = experiment(tmp_path / "runs", checkpoint).model_dump(mode="json")
    own = tree["forecasters"].pop("tiny")
    tree["forecasters"] = {
        "foreign": own | {"tokenizer": str(other)},
        "own": own | {"n_paths": 3, "top_p": 0.9},
        "corrected": {"kind": "calibrated", "base": "own"},
    }
    done = run(RunConfig.model_validate(tree, strict=False))
    shown = evaluate_from_run(checkpoint, done.directory)
    assert (shown.forecaster, shown.n_paths, shown.top_p, shown.temperature) == ("own", 3, 0.9, 1.0)
    assert shown.scores[0].value == done.metrics["forecast.own.crps_bps.close.h1"]
    with pytest.raises(ConfigError, match=r"forecaster 'foreign' has not the weights of .*; those that have: own"):
        evaluate_from_run(checkpoint, done.directory, "foreign")
    with pytest.raises(ConfigError, match="no forecaster 'theirs'; name one of random_walk, foreign, own, corrected"):
        evaluate_from_run(checkpoint, done.directory, "theirs")
    assert evaluate_from_run(checkpoint / "model", done.directory).forecaster == "own"

    alone = shutil.copytree(checkpoint / "model", tmp_path / "alone")
    with pytest.raises(ConfigError, match=r"2 forecasters have .*; choose one with --forecaster: foreign, own"):
        evaluate_from_run(alone, done.directory)
    arguments = ["card", str(alone), "--metrics", str(done.directory), "--forecaster"]
    result = CliRunner().invoke(app, [*arguments, "foreign"])
    assert result.exit_code == 0, result.output
    assert "Forecaster `foreign` of kind `kronos`: context 20, horizon 4, 2 paths" in (alone / "README.md").read_text()
    result = CliRunner().invoke(app, ["card", str(alone), "--forecaster", "own"])
    assert result.exit_code == 2
    assert "give it with --metrics" in result.stderr


def test_the_manifest_s_digest_is_the_one_on_the_card(checkpoint: Path, tmp_path: Path) -> None:
    done = run(experiment(tmp_path / "runs", checkpoint))
    evaluation = evaluate_from_run(checkpoint, tmp_path / "runs" / "named")
    assert evaluation.digest == json.loads((done.directory / "manifest.json").read_text())["digest"]
