"""Every forecaster and every strategy of the project passes the audit; a new one is audited without a line here."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest
import torch

from btcbt.audit import audit_experiment
from btcbt.config import KINDS, FittedConfig, RunConfig
from btcbt.forecasters import fitted
from btcbt.models.kronos import Kronos, KronosTokenizer
from btcbt.models.kronos.checkpoints.files import NANO, write_data_ranges
from btcbt.models.kronos.shapes import ModelConfig, TokenizerConfig
from btcbt.records import DataRange
from btcbt.strategies.loading import BUILT_IN, load_strategy
from tests.tiny_quantile_models import save_chronos_bolt

FITTED = [get_args(one.model_fields["kind"].annotation)[0] for one in FittedConfig.__subclasses__()]
QUANTILES = ("fracast", "chronos", "timesfm")  # one class makes the paths of all three
SPECIAL = {
    "kronos": {"device": "cpu"},
    "kronos_anchored": {"device": "cpu", "block": 4},
    "calibrated": {"base": "drift"},
    "located": {"base": "kronos"},
    "reordered": {"base": "drift"},
}


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory):
    """A small random pair that declares its ranges."""
    torch.manual_seed(0)
    shape = {"d_model": 32, "n_heads": 2, "ff_dim": 48, "s1_bits": 5, "s2_bits": 5}
    shape |= {"ffn_dropout_p": 0.0, "attn_dropout_p": 0.0, "resid_dropout_p": 0.0}
    coder = {"d_in": 6, "n_enc_layers": 3, "n_dec_layers": 3, "beta": 0.05, "gamma0": 1.0, "gamma": 1.1, "zeta": 0.05}
    folder = tmp_path_factory.mktemp("tiny")
    KronosTokenizer(TokenizerConfig(**shape, **coder, group_size=5)).save_pretrained(folder / "tokenizer")
    Kronos(ModelConfig(**shape, n_layers=2, token_dropout_p=0.0, learn_te=True)).save_pretrained(folder / "model")
    write_data_ranges(folder, (DataRange("pretraining", 0, 1_000),))
    return str(folder)


def experiment(checkpoint, kinds, uses, base="drift", context=60, every="240h"):
    forecasters = {}
    for kind in kinds:
        forecasters[kind] = {"kind": kind, **SPECIAL.get(kind, {})}
        if kind == "calibrated":
            forecasters[kind]["base"] = base
        if "base" not in forecasters[kind]:
            forecasters[kind]["n_paths"] = 4
        if kind in FITTED:
            forecasters[kind]["fit"] = {"every": every, "window": "1500h"}
        if kind.startswith("kronos"):
            forecasters[kind]["checkpoint"] = checkpoint
    chosen = {}
    for use in uses:
        for index, params in enumerate(variants(use)):
            chosen[f"{use}{index}"] = {"use": use, "params": params}
    tree = {
        "name": "shipped",
        "candles": {"path": "bundled:BTCUSD_1h"},
        "windows": {"context": context, "horizon": 6, "start": "2019-06-01", "end": "2019-07-01"},
        "forecasters": forecasters,
        "strategies": chosen,
        "portfolio": {"max_short": 1.0},
    }
    return RunConfig.model_validate_json(json.dumps(tree))


def variants(use):
    """The defaults and, where there are any, shorts: more decisions that could differ."""
    yield {}
    if "allow_short" in type(load_strategy(use)).Params.model_fields:
        yield {"allow_short": True}


def test_every_shipped_forecaster_and_strategy_passes(tiny_checkpoint):
    uses = list(BUILT_IN)
    assert len(uses) >= 8
    config = experiment(tiny_checkpoint, [kind for kind in KINDS if kind not in (*FITTED, *QUANTILES)], uses)
    report = audit_experiment(config, sample=2, fresh_process=False)
    assert report.clean, report.findings[:3]
    assert all(report.comparisons[stage] for stage in ("forecast", "calibration", "strategy", "portfolio", "split"))


def test_a_model_of_quantiles_passes(tmp_path):
    pytest.importorskip("chronos")
    chronos = {"kind": "chronos", "checkpoint": str(save_chronos_bolt(tmp_path / "bolt")), "n_paths": 4}
    tree = experiment("", [], ["threshold"]).model_dump(mode="json") | {"forecasters": {"chronos": chronos}}
    report = audit_experiment(RunConfig.model_validate_json(json.dumps(tree)), sample=2, fresh_process=False)
    assert report.clean, report.findings[:3]
    assert report.comparisons["forecast"]


def test_every_forecaster_that_is_fitted_on_the_history_passes():
    config = experiment("", FITTED, ["quantile"], context=170)
    report = audit_experiment(config, sample=3, fresh_process=False)
    assert report.clean, report.findings[:3]
    assert all(report.comparisons[stage] for stage in ("forecast", "strategy", "split"))


def test_a_fit_that_sees_past_its_origin_is_caught(monkeypatch):
    plan = fitted.plan_fits

    def late(candles, first, stop, schedule):
        periods = plan(candles, first, stop, replace(schedule, embargo=-24 * 3_600_000))
        return tuple(replace(period, train=(period.train[0], period.start)) for period in periods)

    monkeypatch.setattr(fitted, "plan_fits", late)
    config = experiment("", ["har"], [], context=170, every="24h")
    report = audit_experiment(config, sample=3, fresh_process=False)
    assert {finding.stage for finding in report.findings} >= {"forecast"}


def test_a_calibrated_and_a_located_network_pass_in_a_fresh_process(tiny_checkpoint):
    config = experiment(tiny_checkpoint, ["kronos", "calibrated", "located"], [], base="kronos")
    report = audit_experiment(config, sample=2)
    assert report.clean, report.findings[:3]


@pytest.mark.proof  # the tiny network of the other tests has the same code
@pytest.mark.skipif(not (NANO / "model").is_dir(), reason="kronos-nano is not in this checkout")
def test_kronos_nano_passes():
    report = audit_experiment(experiment("kronos-nano", ["kronos"], []), sample=2, fresh_process=False)
    assert report.clean, report.findings[:3]
