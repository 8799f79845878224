"""Publishing checkpoints: a model card with the scores of a run, and the upload to the model hub."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from btcbt.config import RANDOM_WALK
from btcbt.errors import CheckpointError, ConfigError
from btcbt.metrics.inference import MeanTest, cosine_terms
from btcbt.models.kronos.checkpoints.card import CARD_FILE, CURVE_FILES, CardScore, Evaluation
from btcbt.models.kronos.checkpoints.files import (
    CONFIG_FILE,
    MODEL_FOLDER,
    RANGES_FILE,
    RECIPE_FILE,
    TOKENIZER_FOLDER,
    WEIGHTS_FILE,
    weights_digest,
)
from btcbt.models.kronos.checkpoints.locate import find_tokenizer
from btcbt.models.kronos.network.model import Kronos
from btcbt.models.kronos.network.tokenizer import KronosTokenizer
from btcbt.models.kronos.training.state import FIT_FILE
from btcbt.storage.runs import Run, load_run
from btcbt.walkforward.refits import NOTE_FILE

NETWORK_FILES = (CONFIG_FILE, WEIGHTS_FILE)
_PART_FILES = (*NETWORK_FILES, RANGES_FILE, CARD_FILE)
ALLOWED = frozenset(
    {CARD_FILE, RANGES_FILE, RECIPE_FILE, *CURVE_FILES, *(f"{file.removesuffix('csv')}png" for file in CURVE_FILES)}
    | {*NETWORK_FILES, *(f"{part}/{file}" for part in (MODEL_FOLDER, TOKENIZER_FOLDER) for file in _PART_FILES)}
)
"""Files that `push` uploads; it refuses a folder with any other file, except notes of btcbt, which are not uploaded."""
_NOTES = frozenset({FIT_FILE, NOTE_FILE})
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def evaluate_from_run(folder: str | Path, run: str | Path, forecaster: str | None = None) -> Evaluation:
    """Collect the scores of a checkpoint from a finished run that forecast with it.

    Parameters
    ----------
    folder : path
        The checkpoint: a pair or a model.
    run : path
        ``runs/NAME`` or ``runs/NAME/DIGEST``.
    forecaster : str, optional
        Its name in the run; needed if several forecast with these weights.

    Raises
    ------
    StoreError
        If there is no such run.
    CheckpointError
        If there is no such checkpoint.
    ConfigError
        If no forecaster of the run has these weights, or several have and none is named, or there are no scores yet.
    """
    done, folder = load_run(run), Path(folder)
    name = _forecaster_of(done, folder, forecaster)
    scores = tuple(_scores(done, name))
    if not scores:
        raise ConfigError(f"{done.directory}: no forecast has a known outcome yet, so there are no scores")
    windows, manifest = done.config.windows, done.manifest
    entry = manifest["forecasters"][name]
    sampled: Mapping[str, Any] = entry["identity"]
    return Evaluation(
        run=str(manifest["name"]),
        digest=str(manifest["digest"]),
        candles=str(manifest["candles"]["path"]),
        interval=str(manifest["candles"]["interval"]),
        first=str(manifest["origins"]["first"]),
        last=str(manifest["origins"]["last"]),
        origins=int(manifest["origins"]["scored"]),
        forecaster=name,
        kind=str(entry["kind"]),
        context=windows.context,
        horizon=windows.horizon,
        n_paths=int(entry["n_paths"]),
        temperature=float(sampled["temperature"]),
        top_k=int(sampled["top_k"]),
        top_p=float(sampled["top_p"]),
        sampling=str(sampled["sampling"]),
        labels=dict(entry["labels"]),
        baseline=RANDOM_WALK,
        scores=scores,
    )


def _forecaster_of(run: Run, folder: Path, asked: str | None) -> str:
    """The forecaster of a run that has a checkpoint's weights: the requested one, or the only one."""
    forecasters: Mapping[str, Mapping[str, Any]] = run.manifest["forecasters"]
    if asked is not None and asked not in forecasters:
        raise ConfigError(f"{run.directory}: no forecaster '{asked}'; name one of {', '.join(forecasters)}")
    weights = _weights(folder)
    alike = [name for name, entry in forecasters.items() if weights.items() <= dict(entry["identity"]).items()]
    digests = ", ".join(f"{part.partition('_')[0]} {digest[:16]}" for part, digest in weights.items())
    if not alike:
        raise ConfigError(
            f"{run.directory}: none of its forecasters ({', '.join(forecasters)}) has the weights of {folder} "
            f"(SHA-256: {digests}); name a run that forecasts with them"
        )
    if asked is None and len(alike) > 1:
        raise ConfigError(
            f"{run.directory}: {len(alike)} forecasters have the weights of {folder}; choose one with --forecaster: "
            f"{', '.join(alike)}"
        )
    if asked is not None and asked not in alike:
        raise ConfigError(
            f"{run.directory}: forecaster '{asked}' has not the weights of {folder} (SHA-256: {digests}); "
            f"those that have: {', '.join(alike)}"
        )
    return asked or alike[0]


def _weights(folder: Path) -> dict[str, str]:
    """Digests of a checkpoint's networks by their keys in a forecaster's identity; a model alone has one."""
    checkpoint = folder.resolve()  # a folder, even if its name is that of a published checkpoint
    digests = {"model_sha256": weights_digest(Kronos.from_pretrained(checkpoint))}
    try:
        tokenizer = find_tokenizer(checkpoint)
    except CheckpointError:
        return digests
    return digests | {"tokenizer_sha256": weights_digest(KronosTokenizer.from_pretrained(tokenizer))}


def _scores(run: Run, name: str) -> Iterator[CardScore]:
    """CRPS and coverage of the close, one and H candles ahead, beside the random walk's."""
    horizon, stride = run.config.windows.horizon, run.config.windows.stride
    walk = next(n for n, entry in run.manifest["forecasters"].items() if entry["kind"] == RANDOM_WALK)
    for step in dict.fromkeys((1, horizon)):
        ahead = f"{step} candle{'s' if step > 1 else ''} ahead"
        key = f"crps_bps.close.h{step}"
        value, baseline = (run.metrics.get(f"forecast.{n}.{key}", math.nan) for n in (name, walk))
        if not math.isfinite(value):
            continue
        versus = {part: run.metrics.get(f"forecast.{name}.versus.{key}.{part}", math.nan) for part in ("dm", "dm_p")}
        low, high = _interval(value - baseline, versus["dm"], int(run.metrics["origins.scored"]), -(-step // stride))
        yield CardScore(f"CRPS of the close, {ahead}, bps", key, value, baseline, low, high, versus["dm_p"])
    for step in dict.fromkeys((1, horizon)):
        key = f"coverage90.close.h{step}"
        covered = [run.metrics.get(f"forecast.{n}.{key}", math.nan) for n in (name, walk)]
        ahead = f"{step} candle{'s' if step > 1 else ''} ahead"
        if math.isfinite(covered[0]):
            yield CardScore(f"closes inside the 90 % interval, {ahead}, %", key, *covered)


def _interval(difference: float, statistic: float, origins: int, overlap: int) -> tuple[float, float]:
    """95 % interval of a mean difference, from its Diebold-Mariano statistic."""
    if not math.isfinite(statistic) or statistic == 0.0:
        return math.nan, math.nan
    degrees = float(cosine_terms(origins, overlap))
    return MeanTest(difference, difference / statistic, statistic, math.nan, degrees, origins).interval()


def uploadable(folder: str | Path) -> list[str]:
    """The files of a checkpoint that go to the hub, by their paths in the folder.

    Raises
    ------
    CheckpointError
        If the folder is not a checkpoint, or holds a file that does not belong to one, or a link out of it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give the folder of a checkpoint")
    root, found = folder.resolve(), list[str]()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.resolve().is_relative_to(root):
            raise CheckpointError(f"{path}: a link to {path.resolve()}, outside the checkpoint; copy the file there")
        if path.is_dir():
            continue
        if name not in ALLOWED | _NOTES or not path.is_file():
            raise CheckpointError(f"{path}: not a file of a checkpoint, so nothing is uploaded; move it elsewhere")
        if name not in _NOTES:
            found.append(name)
    _require_network(folder, set(found))
    return found


def _require_network(folder: Path, found: set[str]) -> None:
    parts = [part for part in ("", f"{MODEL_FOLDER}/", f"{TOKENIZER_FOLDER}/") if f"{part}{WEIGHTS_FILE}" in found]
    if not parts:
        raise CheckpointError(f"{folder}: no {WEIGHTS_FILE} in it; give the folder of a checkpoint")
    for part in parts:
        if f"{part}{CONFIG_FILE}" not in found:
            raise CheckpointError(f"{folder}: {part}{CONFIG_FILE} is missing; is the checkpoint complete?")
    if CARD_FILE not in found:
        raise CheckpointError(f"{folder}: {CARD_FILE} is missing; write one with: btcbt card {folder}")


def push(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = "Upload a checkpoint",
    endpoint: str | None = None,
) -> str:
    """Upload a checkpoint to the model hub, in one commit; the repository is created if it does not exist.

    The token is that of ``HF_TOKEN`` or of the hub's own login; it is neither stored nor shown.

    Parameters
    ----------
    folder : path
        The checkpoint.
    repo : str
        ``owner/name``.
    private : bool
        Whether a repository that is created here is private.
    revision : str, optional
        Branch; created if it does not exist.
    message : str
        Message of the commit.
    endpoint : str, optional
        The hub's address; that of ``HF_ENDPOINT``, or the public one, if left out.

    Returns
    -------
    str
        Address of the commit.

    Raises
    ------
    CheckpointError
        If the folder is not a checkpoint, or holds a file that does not belong to one.
    ConfigError
        If there is no token, the hub refuses, or it cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, errors, get_token

    names, folder = uploadable(folder), Path(folder)
    if not _REPO.fullmatch(repo):
        raise ConfigError(f"repo {_short(repo)!r}: expected OWNER/NAME of letters, digits, '-', '_' and '.'")
    token = get_token()
    if not token:
        raise ConfigError("no token for the hub; set HF_TOKEN to one that may write, or log in with: hf auth login")
    api = HfApi(endpoint=endpoint, token=token, library_name="btcbt")
    network_error: type[Exception] = getattr(errors, "HTTPError", OSError)  # of the hub's HTTP client
    try:
        api.create_repo(repo, private=private or None, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names]
        done = api.create_commit(repo, files, commit_message=message, revision=revision)
    except (errors.HfHubHTTPError, network_error, OSError, RuntimeError, ValueError) as error:
        raise ConfigError(_explain(repo, error).replace(token, "***")) from None
    return str(done.commit_url)


def _explain(repo: str, error: Exception) -> str:
    """The hub's answer and the remedy, in one line."""
    cause: BaseException = error
    while getattr(cause, "response", None) is None and cause.__cause__ is not None:
        cause = cause.__cause__
    status = getattr(getattr(cause, "response", None), "status_code", None)
    remedies = {
        401: "the token is invalid; set HF_TOKEN to a valid one, or log in with: hf auth login",
        403: f"the token may not write to '{repo}'; use one with write access to that owner, or another --repo",
        404: "no such repository or branch for this token; check --repo and --revision",
        409: "the repository is being changed by another commit; run the command again",
    }
    if status in remedies:
        return f"hub: {status} for {repo}: {remedies[status]}"
    if status is not None:
        said = getattr(cause, "server_message", None) or ""
        return f"hub: {status} for {repo}: {_short(said) or 'no reason given'}; try again later"
    why = f"{type(cause).__name__}: {_short(str(cause))}"
    return f"hub: cannot be reached for {repo} ({why}); check the network and HF_ENDPOINT"


def _short(text: str) -> str:
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= 200 else line[:197] + "..."
