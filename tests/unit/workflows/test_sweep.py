from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from btcbt.cli.main import app
from btcbt.config.sweep import SelectionConfig
from btcbt.errors import StrategyError
from btcbt.metrics.sharpe import sharpe_ratio
from btcbt.walkforward.runner import run
from btcbt.workflows.sweep import choose, run_sweep

EXPERIMENT = """
name: base
candles: {path: "bundled:BTCUSD_1h"}
windows: {start: 2019-06-01, end: 2019-06-15, context: 24, horizon: 4}
forecasters:
  walk: {kind: random_walk, n_paths: 5}
strategies:
  threshold: {use: threshold, params: {entry_bps: 20, exit_bps: -5}}
  own: {use: "own.py:Own"}
seed: 3
"""
SWEEP = """
name: grid
experiment: base.yaml
strategies: [threshold]
over:
  strategies.threshold.params.entry_bps: [5, 20, 40]
  strategies.threshold.params.exit_bps: [-20, -5]
  forecasters.walk.n_paths: [5, 8]
select: {trade: 3d}
"""
OWN = """
from pydantic import Field
from btcbt.strategies import Params, Strategy

class OwnParams(Params):
    entry: float = Field(0.001)

class Own(Strategy):
    Params = OwnParams

    def decide(self, forecast, holding):
        if holding.candles_held > 6:
            return 0.0
        return 1.0 if forecast.returns().mean() > self.params.entry else holding.weight
"""
MANY = """
    @classmethod
    def decide_many(cls, forecasts, weights, params):
        import numpy as np
        return (forecasts.returns().mean(axis=1)[:, None] > np.array([one.entry for one in params])).astype(float)
"""
HOUR = 3_600_000


@pytest.fixture(scope="module")
def inside(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "base.yaml").write_text(EXPERIMENT)
    (folder / "own.py").write_text(OWN)
    (folder / "sweep.yaml").write_text(SWEEP)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def done(inside):
    return run_sweep("sweep.yaml")


def test_an_account_of_a_sweep_is_that_of_a_run_with_these_parameters(done, inside):
    whole = run("base.yaml")
    row = done.table[
        (done.table["strategies.threshold.params.entry_bps"] == 20)
        & (done.table["strategies.threshold.params.exit_bps"] == -5)
        & (done.table["forecasters.walk.n_paths"] == 5)
    ].iloc[0]
    for name in ("total_return", "sharpe", "max_drawdown", "turnover"):
        within = 1e-4 if name == "turnover" else 1e-12  # that of a run divides by the equity after costs
        assert row[name] == pytest.approx(whole.metrics[f"strategy.threshold@walk.{name}"], rel=within), name
    assert row["orders"] == (whole.orders()["strategy"] == "threshold@walk").sum()
    # Every configuration of the sweep is a trial of a later run on these hours; the one in common counts once.
    assert whole.metrics["selection.configurations"] == len(done.table) + 1  # the user's own


def test_a_sweep_has_a_row_for_every_configuration_and_heat_maps(done):
    assert len(done.table) == 12
    assert set(done.table["forecaster"]) == {"walk", "walk-2"}
    assert done.numbers["selection.configurations"] >= 12
    assert 0 <= done.numbers["selection.flat.p_value"] <= 1
    pictures = sorted(done.directory.glob("*.png"))
    assert len(pictures) == 3
    from matplotlib.image import imread

    assert all(imread(picture).std() > 0.05 for picture in pictures)


def test_the_command_prints_the_verdict_and_what_selection_is_worth(inside):
    result = CliRunner().invoke(app, ["sweep", "sweep.yaml", "--quiet"])
    assert result.exit_code == 0, result.output
    for text in ("12 configurations", "SPA p", "Chosen on the past", "Best in hindsight"):
        assert text in " ".join(result.output.split())
    result = CliRunner().invoke(app, ["sweep", "nothing.yaml"])
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_decisions_one_at_a_time_give_the_same_accounts_in_processes_or_not(inside):
    text = (
        SWEEP.replace("[threshold]", "[own]").split("over:")[0] + "over:\n  strategies.own.params.entry: [0, 0.001]\n"
    )
    (inside / "own.yaml").write_text(text)
    (inside / "base.yaml").write_text(EXPERIMENT + "executor: {workers: 1}\n")
    alone = run_sweep("own.yaml").table
    (inside / "base.yaml").write_text(EXPERIMENT + "executor: {workers: 2}\n")
    assert run_sweep("own.yaml").table.equals(alone)
    (inside / "many.py").write_text(OWN + MANY)
    (inside / "base.yaml").write_text(EXPERIMENT.replace("own.py", "many.py"))
    with pytest.raises(StrategyError, match=r"decide_many returned .*, decide .*; correct decide_many, or remove it"):
        run_sweep("own.yaml")


def test_selection_takes_the_best_of_the_past_and_sees_nothing_later():
    rng = np.random.default_rng(0)
    times = HOUR * np.arange(240)
    returns = 0.001 * rng.standard_normal((240, 4))
    returns[:48, 2] += 0.01
    returns[100:130, 1] += 0.01
    select = SelectionConfig(train="2d", trade="1d")
    chosen = choose(returns, times, HOUR, select)
    assert (chosen[:48] == -1).all()
    assert (chosen[48:72] == 2).all()
    for start in range(48, 240, 24):
        past = [sharpe_ratio(column) for column in returns[start - 48 : start].T]
        assert (chosen[start : start + 24] == int(np.argmax(past))).all()
        later = returns.copy()
        later[start:] = rng.standard_normal((240 - start, 4))
        np.testing.assert_array_equal(choose(later, times, HOUR, select)[: start + 24], chosen[: start + 24])


def test_the_chosen_account_is_one_of_the_configurations_while_the_choice_stays(done):
    kept = done.manifest["chosen"]
    assert sum(kept.values()) == done.numbers["nested.candles"]
    assert set(kept) <= set(done.table["name"])
    assert -1 < done.numbers["nested.total_return"] <= done.numbers["hindsight.total_return"] + 0.05
