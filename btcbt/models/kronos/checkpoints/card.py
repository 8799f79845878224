"""Model cards: what a checkpoint is, what data it has seen and how well it scores, in a ``README.md`` beside it.

The card is made from the files of the folder (`data_ranges.json`, `recipe.json`, loss curves, shapes), so it can be
rewritten at any time, for example with the scores of a run. Names and values from files or users go into the front
matter through a YAML writer and into the text as code spans of one line, so that none can add a key or a line.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from btcbt.config import time_text
from btcbt.errors import CheckpointError
from btcbt.files import read_file, write_whole
from btcbt.models.kronos.checkpoints.files import (
    CONFIG_FILE,
    MAX_TEXT_BYTES,
    MODEL_FOLDER,
    RANGES_FILE,
    RECIPE_FILE,
    TOKENIZER_FOLDER,
    WEIGHTS_FILE,
    read_data_ranges,
    read_json,
)
from btcbt.models.kronos.shapes import ModelConfig, TokenizerConfig
from btcbt.trees import leaves

CARD_FILE = "README.md"
CURVE_FILES = ("tokenizer_loss.csv", "model_loss.csv")
LIBRARY, PIPELINE = "btcbt", "time-series-forecasting"
LEAKY = "window_with_future"
"""Use of the range that marks a leaky fit (`btcbt.models.kronos.training.finetune.NEVER_CLEAN`)."""
TAGS = ("kronos", "candlesticks", "cryptocurrency", "probabilistic-forecasting")

_MAX_TEXT = 300
_FOLDERS = re.compile(r"(?<![^\s,(])(?:/|~[^/\s]*/|[A-Za-z]:\\)(?:[^/\\\s,()]+[/\\])*(?=[^/\\\s,()])")
"""Matches the folders of an absolute path in a line of text."""
_LIMITS = (
    "It samples what candles of the past looked like. Nothing here says that trading on it pays.",
    "Scores hold for the candles, range, horizon and number of paths named beside them, and for nothing else.",
    "An origin is called `clean` if every candle that any part of the checkpoint looked at, for training or for "
    "selection, had closed by then. On candles of earlier times its forecasts are no evidence.",
    "What earlier owners of its starting weights had looked at is taken from their declaration, or unknown.",
)


@dataclass(frozen=True, slots=True)
class CardScore:
    """One score beside the baseline's.

    Attributes
    ----------
    name, key : str
        For readers, and for programs.
    value, baseline : float
        The checkpoint's, and the baseline's.
    low, high : float
        95 % interval of ``value - baseline``; NaN if there is none.
    p_value : float
        Of the hypothesis of equal scores; NaN if not tested.
    """

    name: str
    key: str
    value: float
    baseline: float
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of a checkpoint in a run.

    Attributes
    ----------
    run, digest : str
        The run's name and digest.
    candles, interval : str
        The history.
    first, last : str
        First and last origin.
    origins : int
        Origins with a known outcome.
    forecaster, kind : str
        Name and kind of the forecaster in the run.
    context, horizon, n_paths : int
        T, H and S.
    temperature, top_k, top_p, sampling : float, int, float, str
        Sampling parameters.
    labels : mapping of str to int
        Origins by contamination label.
    baseline : str
        The forecaster compared with.
    scores : tuple of CardScore
    """

    run: str
    digest: str
    candles: str
    interval: str
    first: str
    last: str
    origins: int
    forecaster: str
    kind: str
    context: int
    horizon: int
    n_paths: int
    temperature: float
    top_k: int
    top_p: float
    sampling: str
    labels: Mapping[str, int]
    baseline: str
    scores: tuple[CardScore, ...]


def write_model_card(
    folder: str | Path, *, evaluation: Evaluation | None = None, licence: str = "mit", datasets: Sequence[str] = ()
) -> Path:
    """Write the card of a checkpoint beside it, whole or not at all.

    Parameters
    ----------
    folder : path
        A pair (``model/`` and ``tokenizer/``), a model or a tokenizer.
    evaluation : Evaluation, optional
        Scores of a run; also written to the front matter's ``model-index``.
    licence : str
        A license identifier of the hub, such as ``mit``.
    datasets : sequence of str
        Hub ids of the candles it was fitted on, if any.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    CheckpointError
        If the folder holds no checkpoint, one of its files is broken, or the card cannot be written.
    """
    from huggingface_hub import ModelCardData

    folder = Path(folder)
    recipe = read_json(folder / RECIPE_FILE) if (folder / RECIPE_FILE).is_file() else {}
    name = _plain(str(recipe.get("name") or folder.resolve().name))
    base = _base_model(recipe)
    data = ModelCardData(
        license=_plain(licence),
        library_name=LIBRARY,
        tags=list(TAGS),
        pipeline_tag=PIPELINE,
        datasets=[_plain(dataset) for dataset in datasets] or None,
        base_model=base,
        model_name=name,
        eval_results=None if evaluation is None else _results(evaluation),
    )
    if evaluation is None:
        data.pop("model_name")
    lines = [
        f"# {_code(name)}",
        "",
        *_what(folder, base),
        "",
        *_data(folder),
        "",
        *_recipe(recipe),
        *_losses(folder),
        "",
        *_scores(evaluation),
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in _LIMITS),
    ]
    file = folder / CARD_FILE
    try:
        write_whole(file, (f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n").encode())
    except OSError as error:
        raise CheckpointError(
            f"{file}: cannot be written ({error.strerror}); free disk space, or grant this account write access"
        ) from None
    return file


def _shape(part: str, file: Path) -> str:
    values = read_json(file)
    if part == "model":
        model = ModelConfig.from_dict(values, str(file))
        return f"{model.n_layers} | {model.d_model} | {model.s1_bits} + {model.s2_bits}"
    tokenizer = TokenizerConfig.from_dict(values, str(file))
    # The configuration counts one layer more than is built, on each side.
    layers = f"{tokenizer.n_enc_layers - 1} + {tokenizer.n_dec_layers - 1}"
    return f"{layers} | {tokenizer.d_model} | {tokenizer.s1_bits} + {tokenizer.s2_bits}"


def _what(folder: Path, base: str | None) -> Iterator[str]:
    parts = {"model": folder / MODEL_FOLDER, "tokenizer": folder / TOKENIZER_FOLDER}
    parts = {name: part for name, part in parts.items() if (part / CONFIG_FILE).is_file()}
    if not parts:
        shape = read_json(folder / CONFIG_FILE)
        parts = {"tokenizer" if "d_in" in shape else "model": folder}
    yield (
        "Kronos samples candles: a tokenizer turns each candle (open, high, low, close, volume, amount, scaled on its "
        "context) into two sub-tokens, a transformer samples the tokens of candles to come. This is such a "
        f"{' and '.join(parts)}, in the layout of the published Kronos checkpoints."
    )
    yield ""
    if base is not None:
        yield f"It was fitted from {_code(base)}."
        yield ""
    yield from ("| part | parameters | layers | width | bits |", "| --- | --- | --- | --- | --- |")
    for name, part in parts.items():
        yield f"| {name} | {_parameters(part / WEIGHTS_FILE):,} | {_shape(name, part / CONFIG_FILE)} |"
    if "model" in parts and "tokenizer" in parts:
        yield from (
            "",
            "```python",
            "import btcbt.hf  # registers Kronos with the Auto classes",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'tokenizer = AutoTokenizer.from_pretrained("path/to/this")',
            'model = AutoModelForCausalLM.from_pretrained("path/to/this")',
            "```",
        )


def _data(folder: Path) -> Iterator[str]:
    yield from ("## What it has looked at", "")
    ranges = read_data_ranges(folder)
    if ranges is None:
        yield "Nobody has declared it, so no origin can be called clean."
        return
    if not ranges:
        yield "Nothing: it was not fitted."
        return
    yield from ("| use | from | until (exclusive) |", "| --- | --- | --- |")
    for one in ranges:
        spans = {"unknown": ("not declared", "not declared"), LEAKY: ("ever", "ever")}
        span = spans.get(one.use, (time_text(one.start), time_text(one.end)))
        yield f"| {_code(one.use)} | {span[0]} | {span[1]} |"
    note = read_json(folder / RANGES_FILE).get("note")
    if isinstance(note, str) and note:
        yield from ("", _code(_FOLDERS.sub("", note), limit=2000))
    if any(one.use == LEAKY for one in ranges):
        yield from ("", "**Contaminated: windows were scaled with the candles to be predicted. No origin is clean.**")
    elif any(one.use == "unknown" for one in ranges):
        yield from ("", "A part of it is not declared, so no origin can be called clean.")
    else:
        yield from ("", f"Origins from {time_text(max(one.end for one in ranges))} on are clean.")


def _recipe(recipe: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## Recipe", "")
    if not recipe:
        yield "Not recorded."
        return
    yield f"As read by `btcbt finetune`; the whole of it is in `{RECIPE_FILE}`."
    yield from ("", "| key | value |", "| --- | --- |")
    yield from (f"| {_code(key)} | {_code(value)} |" for key, value in _settings(recipe) if key != "output")


def _losses(folder: Path) -> Iterator[str]:
    best = [(file, min(selection_losses(folder / file), default=None)) for file in CURVE_FILES]
    found = [f"{loss:.4f} for the {file.partition('_')[0]}" for file, loss in best if loss is not None]
    if found:
        yield from ("", f"Lowest loss on the selection range: {', '.join(found)} (model: nats per sub-token).")


def _scores(evaluation: Evaluation | None) -> Iterator[str]:
    yield from ("## Scores", "")
    if evaluation is None:
        yield "No run is named. `btcbt card FOLDER --metrics runs/NAME` adds the scores of one."
        return
    counts = ", ".join(f"{count:,} {_code(label)}" for label, count in sorted(evaluation.labels.items()))
    yield (
        f"Walk-forward run {_code(evaluation.run)} ({_code(evaluation.digest)}) on "
        f"{_code(bare_name(evaluation.candles))}, {_code(evaluation.interval)}: {evaluation.origins:,} origins with a "
        f"known outcome, {evaluation.first} .. {evaluation.last}. Forecaster {_code(evaluation.forecaster)} of kind "
        f"{_code(evaluation.kind)}: context {evaluation.context}, horizon {evaluation.horizon}, "
        f"{evaluation.n_paths} paths, temperature {evaluation.temperature:g}, top_k {evaluation.top_k}, "
        f"top_p {evaluation.top_p:g}, {_code(evaluation.sampling)} sampling. "
        f"Origins by what any fitted part had looked at: {counts}."
    )
    if set(evaluation.labels) != {"clean"}:
        yield from ("", "**Not all of them are clean, so these scores say nothing about new data.**")
    yield from ("", f"| score | this | {_code(evaluation.baseline)} | difference, 95 % interval | p |")
    yield "| --- | --- | --- | --- | --- |"
    for one in evaluation.scores:
        difference = f"{one.value - one.baseline:+.2f}"
        if math.isfinite(one.low) and math.isfinite(one.high):
            difference += f" ({one.low:+.2f} .. {one.high:+.2f})"
        p_value = f"{one.p_value:.3f}" if math.isfinite(one.p_value) else ""
        yield f"| {one.name} | {one.value:.2f} | {one.baseline:.2f} | {difference} | {p_value} |"
    yield from (
        "",
        "Intervals and p-values allow for the overlap of neighbouring forecasts (Diebold-Mariano); they are not "
        "corrected for the number of rows.",
    )


def _results(evaluation: Evaluation) -> list[Any]:
    """The scores in the form of the hub's ``model-index``."""
    from huggingface_hub import EvalResult

    about = {
        "run": f"{_plain(evaluation.run)}/{_plain(evaluation.digest)}",
        "first_origin": evaluation.first,
        "last_origin": evaluation.last,
        "origins": evaluation.origins,
        "forecaster": _plain(evaluation.forecaster),
        "kind": _plain(evaluation.kind),
        "context": evaluation.context,
        "horizon": evaluation.horizon,
        "n_paths": evaluation.n_paths,
        "temperature": evaluation.temperature,
        "top_k": evaluation.top_k,
        "top_p": evaluation.top_p,
        "sampling": _plain(evaluation.sampling),
        "labels": {_plain(label): count for label, count in sorted(evaluation.labels.items())},
    }
    return [
        EvalResult(
            task_type=PIPELINE,
            task_name="Candle forecasting",
            dataset_type=f"candles-{_plain(evaluation.interval)}",
            dataset_name=f"{_plain(bare_name(evaluation.candles))} {_plain(evaluation.interval)}",
            dataset_args=about,
            metric_type=one.key,
            metric_name=one.name,
            metric_value=round(one.value, 6),
            metric_args={
                "baseline": _plain(evaluation.baseline),
                "baseline_value": round(one.baseline, 6),
                **{
                    key: round(value, 6)
                    for key, value in (
                        ("difference_low95", one.low),
                        ("difference_high95", one.high),
                        ("p_value", one.p_value),
                    )
                    if math.isfinite(value)
                },
            },
        )
        for one in evaluation.scores
        if math.isfinite(one.value)
    ]


def _base_model(recipe: Mapping[str, Any]) -> str | None:
    """Hub id of the weights that a fit started from, if they have one."""
    start = recipe.get("start")
    if isinstance(start, Mapping):
        start = start.get("model") or start.get("tokenizer")
    if not isinstance(start, str):
        return None
    parts = start.split("/")
    hub_id = (
        len(parts) == 2 and all(part and part not in (".", "..", "~") for part in parts) and not Path(start).exists()
    )
    return _plain(start) if hub_id else None


def _parameters(weights: Path) -> int:
    """Numbers in a safetensors file, from its header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="np") as file:
            return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights}: missing or broken ({error}); download or save it again") from None


def selection_losses(curve: Path) -> list[float]:
    """Losses on the selection range, evaluation by evaluation, of a fit's ``*_loss.csv``; empty without such a file.

    Raises
    ------
    CheckpointError
        If the file is broken.
    """
    if not curve.is_file():
        return []
    try:
        rows = csv.DictReader(read_file(curve, MAX_TEXT_BYTES).decode("utf-8").splitlines())
        return [float(row["loss"]) for row in rows if row.get("split") == "select" and row.get("loss")]
    except (OSError, ValueError, csv.Error) as error:
        raise CheckpointError(
            f"{curve}: not a table of losses ({error}); expected columns 'split' and 'loss', a number; delete the file "
            "or fit again"
        ) from None


def _settings(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys and values of a recipe as texts, without what is left out."""
    for key, value in leaves(recipe):
        if isinstance(value, list):
            yield key, ", ".join(bare_name(str(item)) for item in value)
        elif value is not None and value != {}:
            yield key, bare_name(str(value))


def bare_name(path: str) -> str:
    """Cut an absolute path to its last part, so that nothing published names folders of this machine."""
    if Path(path).is_absolute() or path.startswith("~"):
        return Path(path).name
    return PureWindowsPath(path).name if PureWindowsPath(path).is_absolute() else path


def _plain(text: str, limit: int = _MAX_TEXT) -> str:
    """One line of printable characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _code(text: object, limit: int = _MAX_TEXT) -> str:
    """A code span that Markdown and HTML show as it is, also in a table."""
    line = _plain(str(text), limit).replace("`", "'").replace("|", "/").replace("\\", "/")
    return f"`{line}`" if line else ""
