from __future__ import annotations

import json
import math
import re
import shutil

import pytest
import yaml
from typer.testing import CliRunner

from btcbt.cli.main import app
from btcbt.errors import CheckpointError
from btcbt.models.kronos.checkpoints.card import CARD_FILE, CardScore, Evaluation, write_model_card
from btcbt.models.kronos.checkpoints.files import NANO
from btcbt.models.kronos.training.recipe import FinetuneConfig
from btcbt.records import DataRange
from tests.tiny_kronos import save_tiny

JUNE = 1_559_347_200_000


def read(file):
    """Front matter and text, as the hub reads them."""
    from huggingface_hub import ModelCard

    card = ModelCard.load(file)
    return yaml.safe_load(file.read_text().split("---\n")[1]), card.text, card.data


def evaluation(**changes):
    values = {
        "run": "walkforward", "digest": "0123456789abcdef", "candles": "bundled:BTCUSD_1h", "interval": "1h",
        "first": "2019-06-01T00:00Z", "last": "2019-09-30T23:00Z", "origins": 2373, "context": 240, "horizon": 24,
        "n_paths": 30, "forecaster": "kronos", "kind": "kronos", "temperature": 0.9, "top_k": 0, "top_p": 0.95,
        "sampling": "independent", "labels": {"clean": 2373}, "baseline": "random_walk",
        "scores": (CardScore("CRPS of the close, bps", "crps_bps.close.h24", 199.4, 194.0, -3.6, 14.4, 0.237),
                   CardScore("in 90 %", "coverage90.close.h24", 88.8, 90.5)),
    }  # fmt: skip
    return Evaluation(**values | changes)


def test_a_card_says_what_the_checkpoint_is_and_what_it_has_looked_at(tmp_path):
    ranges = (DataRange("pretraining", 0, JUNE), DataRange("selection", JUNE, JUNE + 86_400_000))
    front, text, _ = read(write_model_card(save_tiny(tmp_path / "tiny", ranges)))
    assert front["license"] == "mit"
    assert front["library_name"] == "btcbt"
    assert front["pipeline_tag"] == "time-series-forecasting"
    assert "kronos" in front["tags"]
    assert "model-index" not in front
    assert "| `pretraining` | 1970-01-01T00:00Z | 2019-06-01T00:00Z |" in text
    assert "Origins from 2019-06-02T00:00Z on are clean." in text
    assert re.search(r"\| model \| \d\d,\d{3} \| 2 \| 32 \| 5 \+ 5 \|", text)
    assert re.search(r"\| tokenizer \| \d\d,\d{3} \| 2 \+ 2 \| 32 \| 5 \+ 5 \|", text)
    assert "## Limits" in text


def test_an_undeclared_range_is_never_called_clean(tmp_path):
    folder = save_tiny(tmp_path / "tiny", None)
    assert "no origin can be called clean" in read(write_model_card(folder))[1]
    folder = save_tiny(tmp_path / "tiny", (DataRange("unknown", 0, 0), DataRange("finetuning", 0, JUNE)))
    text = read(write_model_card(folder))[1]
    assert "| `unknown` | not declared | not declared |" in text
    assert "on are clean" not in text


def test_scores_of_a_run_are_in_the_table_and_in_the_model_index(tmp_path):
    front, text, data = read(write_model_card(save_tiny(tmp_path / "tiny"), evaluation=evaluation()))
    assert "| CRPS of the close, bps | 199.40 | 194.00 | +5.40 (-3.60 .. +14.40) | 0.237 |" in text
    assert "| in 90 % | 88.80 | 90.50 | -1.70 |  |" in text
    assert "2,373 `clean`" in text
    metrics = front["model-index"][0]["results"][0]["metrics"]
    assert [one["value"] for one in metrics] == [199.4, 88.8]
    assert metrics[0]["args"] == {
        "baseline": "random_walk", "baseline_value": 194.0, "difference_low95": -3.6, "difference_high95": 14.4,
        "p_value": 0.237,
    }  # fmt: skip
    assert data.eval_results[0].dataset_name == "bundled:BTCUSD_1h 1h"  # the hub's own reader understands it


def test_a_card_says_how_the_forecaster_sampled_whose_scores_it_shows(tmp_path):
    front, text, _ = read(write_model_card(save_tiny(tmp_path / "tiny"), evaluation=evaluation(kind="kronos_anchored")))
    assert (
        "Forecaster `kronos` of kind `kronos_anchored`: context 240, horizon 24, 30 paths, temperature 0.9, top_k 0, "
        "top_p 0.95, `independent` sampling."
    ) in text
    about = front["model-index"][0]["results"][0]["dataset"]["args"]
    assert (about["forecaster"], about["kind"], about["n_paths"]) == ("kronos", "kronos_anchored", 30)
    assert (about["temperature"], about["top_k"], about["top_p"], about["sampling"]) == (0.9, 0, 0.95, "independent")


def test_the_shipped_card_is_the_one_that_is_written_from_its_scores(tmp_path):
    about = yaml.safe_load((NANO / CARD_FILE).read_text().split("---\n")[1])["model-index"][0]["results"][0]
    arguments = about["dataset"]["args"]
    run, digest = arguments.pop("run").split("/")
    candles, interval = about["dataset"]["name"].split()
    scores = tuple(
        CardScore(
            one["name"], one["type"], one["value"], one["args"]["baseline_value"],
            *(one["args"].get(key, math.nan) for key in ("difference_low95", "difference_high95", "p_value")),
        )
        for one in about["metrics"]
    )  # fmt: skip
    shown = Evaluation(
        run, digest, candles, interval, arguments.pop("first_origin"), arguments.pop("last_origin"),
        **arguments, baseline="random_walk", scores=scores,
    )  # fmt: skip
    copy = shutil.copytree(NANO, tmp_path / "nano")
    assert write_model_card(copy, evaluation=shown).read_text() == (NANO / CARD_FILE).read_text()


def test_scores_on_origins_that_are_not_clean_are_marked(tmp_path):
    text = read(write_model_card(save_tiny(tmp_path / "tiny"), evaluation=evaluation(labels={"seen": 9, "clean": 1})))[
        1
    ]
    assert "**Not all of them are clean, so these scores say nothing about new data.**" in text


def test_a_score_that_does_not_exist_is_left_out_of_the_model_index(tmp_path):
    scores = (CardScore("a", "a", math.nan, 1.0), CardScore("b", "b", 2.0, 1.0))
    front, _, _ = read(write_model_card(save_tiny(tmp_path / "tiny"), evaluation=evaluation(scores=scores)))
    assert [one["type"] for one in front["model-index"][0]["results"][0]["metrics"]] == ["b"]


EVIL = [
    "a\n---\nlicense: other\n---\n# pwned",
    "x: {y: [",
    "| a | b |\n| --- |",
    "`<script>alert(1)</script>`",
    "![x](https://tracker.example/x.png)",
    "!!python/object/apply:os.system ['true']",
    "\u202e\x00\x1b[31m name " + "x" * 5000,
    "'\"\\",
]


@pytest.mark.parametrize("name", EVIL)
def test_no_name_adds_a_key_a_line_or_markup(tmp_path, name):
    folder = save_tiny(tmp_path / "tiny")
    honest, honest_text, _ = read(write_model_card(folder, evaluation=evaluation(), datasets=["a"]))
    recipe = {"name": name, "candles": [name, name], name: {"key": name}}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "data_ranges.json").write_text(json.dumps({"ranges": [], "note": name}))
    spoilt = evaluation(run=name, candles=name, baseline=name, labels={name: 3})
    front, text, _ = read(write_model_card(folder, evaluation=spoilt, licence=name, datasets=[name]))
    assert set(front) == set(honest)
    assert len(front["datasets"]) == 1
    # Outside of code spans there is nothing of the name's own: no markup, no link, no heading.
    outside = "".join(text.replace("```python", "").replace("```", "").split("`")[::2])
    for mark in ("<script", "![", "\n---", "# pwned", "\x1b", "\u202e"):
        assert mark not in outside
    assert text.count("\n## ") == honest_text.count("\n## ")
    assert max(map(len, text.splitlines())) < 4000


def test_a_fit_from_a_hub_id_names_its_base_model(tmp_path):
    folder = save_tiny(tmp_path / "tiny")
    recipe = {"name": "mine", "start": {"model": "NeoQuasar/Kronos-base", "tokenizer": "/home/me/secret/tok"}}
    (folder / "recipe.json").write_text(json.dumps(recipe | {"output": "/home/me/out"}))
    front, text, _ = read(write_model_card(folder))
    assert front["base_model"] == "NeoQuasar/Kronos-base"
    assert "fitted from `NeoQuasar/Kronos-base`" in text
    assert "/home" not in text


def test_no_card_says_where_files_lay_on_a_machine(tmp_path):
    folder = save_tiny(tmp_path / "tiny", (DataRange("pretraining", 0, JUNE),))
    files = ["/home/me/secret/BTCUSDT_1h.parquet", "/home/me/my data/ETHUSDT_1h.parquet", "bundled:LTCUSD_1h"]
    made = FinetuneConfig.model_validate(
        {
            "name": "mine",
            "candles": files,
            "select_on": files[:1],
            "window": 24,
            "context": [4, 20],
            "train": {"start": "2019-01-01", "end": "2019-02-01"},
            "select": {"start": "2019-02-02", "end": "2019-03-01"},
            "model": {"steps": 1, "batch_size": 1, "learning_rate": 0.1, "select_every": 1},
            "start": {"model": "/home/me/secret/parent", "tokenizer": "~me/secret/coder"},
            "output": "/home/me/secret/out",
        },
        strict=False,
    ).model_dump(mode="json")
    places = [r"C:\Users\me\secret\XRPUSDT_1h.parquet", *files]
    (folder / "recipe.json").write_text(json.dumps(made | {"candles": places}))
    declared = json.loads((folder / "data_ranges.json").read_text())
    declared["note"] = f"fitted on {', '.join(f'{place} (SHA-256 ab)' for place in places)}"
    (folder / "data_ranges.json").write_text(json.dumps(declared))
    card = write_model_card(folder, evaluation=evaluation(candles=files[0])).read_text()
    for private in ("home", "me/", "Users", "secret"):
        assert private not in card
    named = "XRPUSDT_1h.parquet, BTCUSDT_1h.parquet, ETHUSDT_1h.parquet, bundled:LTCUSD_1h"
    assert f"| `candles` | `{named}` |" in card
    assert "| `start.model` | `parent` |" in card
    assert "on `BTCUSDT_1h.parquet`, `1h`" in card


def test_broken_files_of_a_checkpoint_are_named_and_the_card_is_kept(tmp_path):
    folder = save_tiny(tmp_path / "tiny")
    before = write_model_card(folder).read_bytes()
    weights, curve = folder / "model" / "model.safetensors", folder / "model_loss.csv"
    whole = weights.read_bytes()
    for content in (whole[: len(whole) // 2], b"{}", b""):
        weights.write_bytes(content)
        assert "model.safetensors: missing or broken" in refused(folder)
    weights.unlink()
    assert "model.safetensors: missing or broken" in refused(folder)
    weights.write_bytes(whole)
    for content in (b"step,split,loss\n1,select,low\n", b"step,split,loss\n1,select,\xff\n"):
        curve.write_bytes(content)
        assert "model_loss.csv: not a table of losses" in refused(folder)
    curve.unlink()
    assert (folder / CARD_FILE).read_bytes() == before


def test_a_card_that_cannot_be_written_is_one_line(tmp_path):
    folder = save_tiny(tmp_path / "tiny")
    (folder / CARD_FILE).mkdir()
    assert "README.md: cannot be written (Is a directory)" in refused(folder)


def refused(folder):
    result = CliRunner().invoke(app, ["card", str(folder)])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line


def test_a_checkpoint_of_the_leaky_recipe_is_called_contaminated(tmp_path):
    from btcbt.models.kronos.training.finetune import NEVER_CLEAN

    folder = save_tiny(tmp_path / "tiny", (DataRange("finetuning", 0, JUNE), NEVER_CLEAN))
    text = read(write_model_card(folder))[1]
    assert "**Contaminated: windows were scaled with the candles to be predicted. No origin is clean.**" in text
    assert "on are clean" not in text
    assert "9999" not in text


@pytest.mark.parametrize("part", ["model", "tokenizer"])
def test_a_part_alone_has_a_card_too(tmp_path, part):
    _, text, _ = read(write_model_card(save_tiny(tmp_path / "tiny") / part))
    assert f"| {part} |" in text
    assert "Nobody has declared it" in text


def test_a_folder_without_a_checkpoint_gets_no_card(tmp_path):
    with pytest.raises(CheckpointError, match=r"config.json"):
        write_model_card(tmp_path)
    assert not list(tmp_path.iterdir())
