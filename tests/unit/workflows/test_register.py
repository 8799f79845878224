"""Registered studies: frozen once, refused where hours were looked at, and evidence that continues with the candles."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from btcbt.audit import audit_experiment
from btcbt.candles import make_candles, read_candles
from btcbt.candles.parquet import write_candles
from btcbt.cli.main import app
from btcbt.config import RunConfig, time_ms
from btcbt.errors import CandleError, ConfigError, StoreError
from btcbt.metrics import ensembles
from btcbt.metrics.eprocess import conditional_e_process, crps_difference_bound
from btcbt.metrics.table import find_score
from btcbt.records import CLOSE, IN_BPS
from btcbt.report.summary import summary
from btcbt.storage.runs import Run
from btcbt.walkforward.runner import run
from btcbt.workflows.register import register

HOUR = 3_600_000
FIRST = 1_556_668_800_000  # 2019-05-01T00:00Z
HYPOTHESES = {
    "edge": {"kind": "forecast", "forecaster": "ewma", "step": 4, "threshold_bps": 0.01},
    "path": {"kind": "forecast", "forecaster": "ewma", "opponent": "random_walk", "metric": "energy_bps"},
    "profit": {"kind": "account", "strategy": "momentum", "benchmark": "buy_and_hold"},
}
Until = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take half of the time of these runs, and show none of this."""
    monkeypatch.setattr("btcbt.walkforward.runner.draw_figures", lambda run: None)


@pytest.fixture
def until(tmp_path: Path) -> Until:
    """Write the bundled candles up to a time, as the file of the study."""
    whole = read_candles("bundled:BTCUSD_1h")

    def write(day: str, *, name: str = "candles", times: float = 1.0) -> Path:
        file, end = tmp_path / f"{name}.parquet", time_ms(datetime.fromisoformat(day).replace(tzinfo=UTC))
        rows = slice(*np.searchsorted(whole.open_time, (FIRST, end)))
        part = make_candles(whole.open_time[rows], whole.values[rows] * times, interval="1h", source=name)
        write_candles(part, file)
        return file

    return write


def study(tmp_path: Path, **changes: Any) -> RunConfig:
    tree = {
        "name": "study",
        "candles": {"path": str(tmp_path / "candles.parquet")},
        "windows": {"context": 60, "horizon": 6, "start": "2019-06-01", "end": "2019-06-20"},
        "forecasters": {
            "random_walk": {"kind": "random_walk", "n_paths": 8},
            "ewma": {"kind": "ewma_volatility", "n_paths": 8},
        },
        "strategies": {"momentum": {"use": "momentum", "params": {"lookback": 24}}},
        "hypotheses": HYPOTHESES,
        "store": {"root": str(tmp_path / "runs")},
    }
    return RunConfig.model_validate(tree | changes, strict=False)


def words(done: Run) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary(done))
    return console.export_text()


def e_values(done: Run) -> np.ndarray:
    """The e-process of the hypothesis 'edge' over all of a run's origins, from its stored forecasts."""
    candles, keep = done.candles(), done.origins()["scored"].to_numpy()
    close, times = candles["close"].to_numpy(), candles.index.tz_convert(None).to_numpy().astype("datetime64[ms]")
    origins = done.forecasts("ewma").origins[keep]
    row = np.searchsorted(times.astype(np.int64), origins)
    last, y = close[row - 1], close[row + 3]
    a, b = (
        IN_BPS * np.log(done.forecasts(name).paths()[keep, :, 3, CLOSE].astype(float) / last[:, None])
        for name in ("ewma", "random_walk")
    )
    outcome = IN_BPS * np.log(y / last)
    difference = ensembles.crps(a, outcome, "independent") - ensembles.crps(b, outcome, "independent")
    return conditional_e_process(difference + 0.01, crps_difference_bound(a, b) + 0.01, 4).values


def test_a_study_is_registered_before_its_hours_and_new_candles_continue_its_evidence(
    tmp_path: Path, until: Until
) -> None:
    until("2019-06-01")
    config = study(tmp_path)
    made = register(config)
    assert made.new
    with pytest.raises(CandleError, match=r"before the window of the study .* run it once it has candles"):
        run(config)
    until("2019-06-01T03:00")
    assert "step 4): no hours yet" in words(run(config)), "the first origin has no outcome yet"
    until("2019-06-04")
    first = run(config)
    until("2019-06-09")
    second = run(config)

    values = e_values(second)
    hours = [int(done.metrics["hypothesis.edge.hours"]) for done in (first, second)]
    assert hours == [3 * 24 - 6 + 1, 8 * 24 - 6 + 1]
    assert first.metrics["hypothesis.edge.e_value"] == pytest.approx(values[hours[0] - 1], rel=1e-9)
    assert second.metrics["hypothesis.edge.e_value"] == pytest.approx(values[-1], rel=1e-9)
    assert second.metrics["hypothesis.edge.highest_e_value"] == pytest.approx(values.max(), rel=1e-9)
    own = [key for key in second.metrics if key.startswith("hypothesis.")]
    assert second.manifest["registration"]["digest"] == made.registration.digest
    assert second.manifest["registration"]["differs"] == []
    assert all(find_score(key) for key in own)
    stored = second.scores().query("group == 'hypothesis=edge' and metric == 'e_value'")
    assert stored[["forecaster", "step"]].to_numpy().tolist() == [["ewma", 4]]

    text = words(second)
    day = made.registration.registered[:10]
    assert f"registered {day}, {made.registration.digest}, when candles ended 2019-06-01T00:00Z" in text
    assert "edge (ewma beats random_walk by more than 0.01 bps, crps_bps, step 4): e-value " in text
    assert "of 60), rejects at 5%: no; difference" in text
    assert "profit (momentum earns more than buy_and_hold): rejects at 5%: no" in text
    report = audit_experiment(config, sample=2, fresh_process=False)
    assert report.subject["run"] == second.directory.name, "an audit is about the run, whose window is still to come"


def test_registering_twice_is_said_and_another_study_of_the_name_is_listed(tmp_path: Path, until: Until) -> None:
    until("2019-05-28")
    file = tmp_path / "study.yaml"

    def command(threshold: float) -> str:
        file.write_text(
            f"name: study\ncandles: {{path: '{tmp_path}/candles.parquet'}}\n"
            "windows: {context: 60, horizon: 6, start: 2019-06-01, end: 2019-06-20}\n"
            "forecasters: {ewma: {kind: ewma_volatility, n_paths: 8}}\n"
            f"hypotheses: {{edge: {{kind: forecast, forecaster: ewma, threshold_bps: {threshold}}}}}\n"
            f"store: {{root: '{tmp_path}/runs'}}\n"
        )
        result = CliRunner().invoke(app, ["register", str(file)])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "study: registered 2" in command(0.0)
    content = {path.name: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json")}
    until("2019-05-29")
    assert "study: already registered 2" in command(0.0), "a longer file makes no other study"
    assert content == {path.name: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json")}
    assert "2 registrations of this name; the others: " in command(0.5)
    until("2019-06-03")
    assert "; 2 registrations of this name." in words(run(file))


def test_a_run_names_what_is_not_as_registered(tmp_path: Path, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    until("2019-05-28")
    register(study(tmp_path))
    changed = study(
        tmp_path,
        forecasters={"ewma": {"kind": "ewma_volatility", "n_paths": 8, "decay": 0.9}},
        hypotheses={"edge": {**HYPOTHESES["edge"], "step": 1}},
    )
    until("2019-06-03", times=1.5)
    monkeypatch.setattr("btcbt.walkforward.registration.package_sha256", lambda: "another")
    done = run(changed)
    differs = done.manifest["registration"]["differs"]
    assert {"code.package", "forecasters.ewma.decay", "weights.ewma", "hypotheses.edge.step"} <= set(differs)
    assert [one for one in differs if "candles" in one] == ["candles before 2019-05-28T00:00Z"]
    assert not [one for one in differs if one.startswith(("windows", "portfolio", "store"))]
    text = words(done)
    assert "not as registered" in text
    assert "code.package, forecasters.ewma.decay" in text
    assert "rejects at 5%: does not count" in text


@pytest.mark.parametrize("strategies", [True, False])
def test_hours_that_anything_has_scored_are_refused(tmp_path: Path, until: Until, strategies: bool) -> None:
    """By a trial in a ledger that another root shares, or by a run without strategies, which no ledger knows."""
    until("2019-06-05", name="longer")
    own = {"root": str(tmp_path / "runs"), "ledger": str(tmp_path / "shared")}
    changes = {
        "name": "looked",
        "candles": {"path": str(tmp_path / "longer.parquet")},
        "windows": {"context": 60, "horizon": 6, "start": "2019-05-30", "end": "2019-06-04"},
        "hypotheses": {},
        "store": own | ({"root": str(tmp_path / "other")} if strategies else {}),
    }
    done = run(study(tmp_path, **changes, **({} if strategies else {"strategies": {}})))
    until("2019-06-02")
    config = study(tmp_path, store=own)
    with pytest.raises(ConfigError) as caught:
        register(config)
    what = "the trial 'momentum' of the experiment 'looked'" if strategies else f"the run {done.directory}"
    assert what in str(caught.value)
    assert f", {done.manifest['started'][:10]}, already scored 2019-06-01T00:00Z .. 2019-06-04T" in str(caught.value)
    assert "move windows.start to 2019-06-04T" in str(caught.value)
    assert not list((tmp_path / "runs").glob("registrations/*/*.json"))
    until("2019-06-02", times=1.5)
    assert register(config).new, "another market was looked at"


def test_hours_beyond_the_file_count_as_looked_at_unless_the_market_is_known_to_be_another(
    tmp_path: Path, until: Until
) -> None:
    until("2019-06-05")
    windows = {"context": 60, "horizon": 6, "start": "2019-06-01", "end": "2019-06-04"}
    text = words(run(study(tmp_path, name="looked", windows=windows)))
    assert "Not registered: the hypotheses are no evidence" in text
    assert "rejects at 5%: does not count" in text
    until("2019-05-20")
    for file in (tmp_path / "runs" / "looked").glob("*/manifest.json"):
        file.unlink()  # only the ledger knows
    with pytest.raises(ConfigError, match=r"may be another market.* or give candles that reach these hours"):
        register(study(tmp_path))


def test_a_damaged_registration_is_one_error(tmp_path: Path, until: Until) -> None:
    until("2019-06-03")
    config = study(tmp_path)
    digest = register(config).registration.digest
    file = tmp_path / "runs" / "registrations" / "study" / f"{digest}.json"
    whole = file.read_text()
    edited = json.loads(whole)
    edited["registration"]["registered"] = "2019-01-01T00:00:00+00:00"
    for content, said in ((json.dumps(edited), "changed after it was written"), (whole[:-20], "not a registration")):
        file.write_text(content)
        for act in (register, run):
            with pytest.raises(StoreError, match=f"{digest}.json: .*{said}.*register the study again"):
                act(config)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, until: Until) -> None:
    until("2019-06-03")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "registrations").write_text("a file")
    with pytest.raises(StoreError, match=r"registrations/study: the registration cannot be written .* store.root"):
        register(study(tmp_path))


def test_nothing_is_registered_without_hypotheses_or_for_an_unknown_account(tmp_path: Path, until: Until) -> None:
    until("2019-06-03")
    with pytest.raises(ConfigError, match="no hypotheses, so there is nothing to register; add some"):
        register(study(tmp_path, hypotheses={}))
    profit = {"kind": "account", "strategy": "momentum", "forecaster": "ewma"}
    with pytest.raises(ConfigError, match="'profit': there is no account 'momentum@ewma'; the accounts are momentum"):
        register(study(tmp_path, hypotheses={"profit": profit}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"forecaster": "oracle"},
            r"'edge': forecaster 'oracle' is not among the forecasters \['ewma', 'random_walk'\]",
        ),
        ({"opponent": "oracle"}, "'edge': opponent 'oracle' is not among"),
        ({"opponent": "ewma"}, "'edge': 'ewma' cannot beat itself"),
        ({"step": 7}, "'edge': step 7 is beyond windows.horizon 6"),
        ({"metric": "mae"}, "Input should be 'crps_bps' or 'energy_bps'"),
        ({"metric": "energy_bps"}, "'edge': energy_bps is of the whole path; remove 'step'"),
        ({"threshold_bps": -1.0}, "greater than or equal to 0"),
        ({"kind": "guess"}, "give 'kind', forecast or account"),
        ({"colour": 1}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_hypothesis_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    edge = {"kind": "forecast", "forecaster": "ewma", "step": 4} | changes
    with pytest.raises(ValueError, match=said):
        study(tmp_path, hypotheses={"edge": edge})


@pytest.mark.parametrize(("key", "name"), [("strategy", "luck"), ("forecaster", "oracle")])
def test_a_hypothesis_on_an_unknown_strategy_or_forecaster_is_refused(tmp_path: Path, key: str, name: str) -> None:
    profit = {"kind": "account", "strategy": "momentum"} | {key: name}
    with pytest.raises(ValueError, match=f"'profit': {key} '{name}' is not among"):
        study(tmp_path, hypotheses={"profit": profit})


def test_a_key_of_a_study_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(
        "name: study\ncandles: {path: bundled:BTCUSD_1h}\n"
        "windows: {context: 60, horizon: 6, start: 2019-06-01, end: 2019-06-20}\n"
        "forecasters: {walk: {kind: ewma_volatility}}\n"
        "hypotheses:\n  edge: {kind: forecast, forecaster: walk}\n"
    )
    result = CliRunner().invoke(app, ["register", "study.yaml", "--set", "windows.end=2019-07-01"])
    assert result.exit_code == 0, result.output
    assert "window 2019-06-01T00:00:00Z .. 2019-07-01T00:00:00Z" in result.stdout
    result = CliRunner().invoke(app, ["register", "study.yaml", "--set", "windows.ende=2019-07-01"])
    assert result.exit_code == 2
    assert "(did you mean 'end'?)" in result.stderr


def test_a_wrong_hypothesis_in_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "name: study\ncandles: {path: bundled:BTCUSD_1h}\n"
        "windows: {context: 60, horizon: 6, start: 2019-06-01, end: 2019-06-20}\n"
        "hypotheses:\n  edge:\n    kind: forecast\n    forecaster: random_walk\n    steps: 4\n"
    )
    result = CliRunner().invoke(app, ["register", str(file)])
    assert result.exit_code == 2
    assert "study.yaml:8: unknown key 'hypotheses.edge.steps'" in result.stderr
    file.write_text(file.read_text().replace("    forecaster: random_walk\n    steps: 4\n", ""))
    result = CliRunner().invoke(app, ["register", str(file)])
    assert "study.yaml:5: 'hypotheses.edge.forecaster' is missing; add it" in result.stderr


def test_hypotheses_do_not_change_the_digest_of_a_run(tmp_path: Path) -> None:
    assert study(tmp_path).digest() == study(tmp_path, hypotheses={}).digest()
