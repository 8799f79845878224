"""The score table: it covers what scoring writes, all of it and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from btcbt.metrics import ScoreStream, against, confidence_sets, score_batch, summarise_returns
from btcbt.metrics.pairs import LOSSES
from btcbt.metrics.panel import SCORED
from btcbt.metrics.placebos import KINDS, summarise_placebos
from btcbt.metrics.returns import SIMULATED
from btcbt.metrics.score import ACCOUNT, ALL, POOLED, Row
from btcbt.metrics.table import TABLE, dotted_key, every_key, find_score, headline_steps, is_headline, score
from btcbt.portfolio import Simulation
from tests.unit.metrics.test_streaming import stream_of


def names(family: str) -> set[str]:
    return {one.name for one in TABLE if one.family == family}


@pytest.fixture
def streams(simulate, tmp_path):
    """Two forecasters of eight steps, with labels and two months."""
    given = simulate(400, horizon=8)
    given["origins"] = given["origins"] + 3_600_000 * np.where(np.arange(400) < 200, 0, 600)
    labels = np.array(["seen", "clean"] * 200)
    both = [given, {**given, "paths": simulate(400, horizon=8)["paths"]}]
    streams = [stream_of(score_batch(**one, labels=labels), tmp_path) for one in both]
    yield streams
    for stream in streams:
        stream.close()


@pytest.fixture
def rows(streams: list[ScoreStream]) -> list[Row]:
    """Every row of the second one."""
    first, second = streams
    losses = {"walk": first.losses(), "other": second.losses()}
    compared = [row for _, row in against(losses) if row.metric.endswith((".difference", ".low", ".high"))]
    sets = [row for name, row in confidence_sets(losses, reps=20) if name == "other"]
    return [*second.rows(), *second.comparison(first, "walk"), *compared, *sets]


def test_no_score_of_a_forecaster_lacks_an_entry_and_no_entry_its_score(rows: list[Row]) -> None:
    own = {row.metric for row in rows if not row.group.startswith("against=") and "." not in row.metric}
    assert own == names("forecast")
    paired = {row.metric.rpartition(".")[::2] for row in rows if row.group.startswith("against=")}
    assert {statistic for _, statistic in paired} == names("against")
    assert {loss for loss, _ in paired} - {""} == set(LOSSES)
    assert {row.metric.rpartition(".")[2] for row in rows if "." in row.metric and row.group == ALL} == {
        "confidence_set"
    }


def test_a_score_is_broken_down_by_what_its_entry_says(rows: list[Row]) -> None:
    for one in TABLE:
        if one.family != "forecast":
            continue
        found = [row for row in rows if row.metric == one.name and not row.group.startswith("against=")]
        groups = {row.group.partition("=")[0] for row in found} - {ALL}
        assert groups == {part for part in one.per if part in ("month", "regime", "label")}, one.name
        assert ({row.channel for row in found} == set(SCORED)) == ("channel" in one.per), one.name
        assert (len({row.step for row in found if row.group == ALL}) > 1) == ("step" in one.per), one.name


def test_no_score_of_an_account_lacks_an_entry_and_no_entry_its_score(rng: np.random.Generator) -> None:
    b, r = rng.normal(1e-4, 0.01, (2, 500))
    numbers = summarise_returns(
        np.cumprod(1 + r),
        np.cumprod(1 + b),
        initial=1.0,
        traded=np.ones(500),
        costs=np.full(500, 1e-4),
        trade_returns=[0.1, -0.1],
        trial_sharpes=[0.0, 0.1],
        decided=np.arange(500) > 20,
        reps=20,
    )
    simulated = {one.name for one in SIMULATED}
    assert simulated <= set(Simulation.__dataclass_fields__)
    of_orders = {"capacity"}
    assert set(numbers) | simulated | of_orders == names("strategy")
    assert not set(numbers) & (simulated | of_orders)


def test_no_number_of_placebos_lacks_an_entry(rng: np.random.Generator) -> None:
    assert set(summarise_placebos(1.0, rng.normal(size=8), list(KINDS) * 2)) == names("placebo")


def test_every_key_leads_to_its_entry_whatever_the_forecaster_is_called(rows: list[Row]) -> None:
    for name in ("other", "v1.2", "crps.v2"):
        for row in rows:
            if row.group.startswith("against=") and "." in row.metric:
                expected = score("against", row.metric.rpartition(".")[2])
            elif row.metric.endswith(".confidence_set"):
                expected = score("confidence_set", "confidence_set")
            else:
                expected = score("against" if row.group.startswith("against=") else "forecast", row.metric)
            assert find_score(dotted_key(name, row)) is expected
            assert find_score(dotted_key(name, row, reference=True)) is expected
    for key in ("strategy.a@b.excess.p_value", "strategy.v1.2@b.by_month.2019-06.total_return", "placebo.a@b.runs"):
        assert find_score(key) is not None
    for group, part in (("cost_bps=5", "at_cost_bps.5"), ("delay=1", "at_delay.1")):
        for metric in ("total_return", "sharpe"):
            key = dotted_key("v1.2@b", Row(ACCOUNT, POOLED, group, metric, 0.0))
            assert key == f"strategy.v1.2@b.{part}.{metric}"
            assert find_score(key) is score("strategy", metric)
    for key in ("selection.flat.p_value", "origins.scored", "selection.overfitting.probability"):
        assert find_score(key) is not None
    for key in ("m", "", "crps", "forecast", "forecast.x", "forecast.x.none.close.h1", "strategy.a.none", "origins.x"):
        assert find_score(key) is None


def test_no_two_numbers_share_a_key(rows: list[Row]) -> None:
    keys = [key for key, _ in every_key((("x", row) for row in rows), "walk")]
    assert len(set(keys)) == len(keys) > len(rows)


def test_headline_numbers_are_those_of_few_steps_and_all_origins(rows: list[Row]) -> None:
    assert headline_steps(24) == [0, 1, 6, 24]
    assert headline_steps(4) == [0, 1, 4]
    assert headline_steps(1) == [0, 1]
    keys = {dotted_key("x", row, reference=True) for row in rows if is_headline(row, 8)}
    assert {f"forecast.x.crps_bps.volume.{step}" for step in ("h1", "h6", "h8", "all")} <= keys
    assert {"forecast.x.energy_bps", "forecast.x.qlike.h8", "forecast.x.insane_not_finite"} <= keys
    assert {"forecast.x.versus.crps_bps.close.h8.hln_p", "forecast.x.versus.origins"} <= keys
    assert {"confidence_set.crps_bps.close.h8.x", "forecast.x.coverage90_attainable"} <= keys
    assert not any(".by_" in key or ".h2" in key or "pinball" in key for key in keys)
    assert len(keys) < 250


def test_an_entry_says_what_a_number_means() -> None:
    assert len({(one.family, one.name) for one in TABLE}) == len(TABLE)
    assert all(one.formula for one in TABLE)
    assert score("forecast", "crps_bps").direction == "lower is better"
    assert score("forecast", "coverage90").direction == "90 is best"
    assert score("forecast", "origins").direction == ""
    assert (score("forecast", "crps_bps").heading, score("strategy", "trades").heading) == ("CRPS", "trades")
    with pytest.raises(KeyError):
        score("forecast", "none")
