"""Baselines: what counts as moved, which way is worse, and what people and machines are told."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from btcbt.cli.main import app
from btcbt.errors import ConfigError
from btcbt.metrics.regression import (
    Comparison,
    Rule,
    Tolerances,
    compare_metrics,
    moved,
    read_baseline,
    read_tolerances,
    write_baseline,
)
from btcbt.report.check import check_junit, check_markdown, check_table, verdict

NAN = float("nan")
HIGHER = Rule(match="*", absolute=0.5, relative=0.01, worse="higher")


def judge(before: float | None, now: float | None, rule: Rule = HIGHER) -> str:
    baseline = {} if before is None else {"m": before}
    return compare_metrics(baseline, {} if now is None else {"m": now}, Tolerances(rules=(rule,)))[0].verdict


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (100.0, 100.0, "equal"),
        (100.0, 101.5, "within"),  # 0.5 + 1 % of 100
        (100.0, 98.5, "within"),
        (100.0, 101.51, "worse"),
        (100.0, 98.49, "better"),
        (-100.0, -98.49, "worse"),
        (0.0, 0.5, "within"),
        (0.0, 0.51, "worse"),
        (1.0, None, "vanished"),
        (1.0, NAN, "vanished"),
        (NAN, None, "vanished"),
        (NAN, NAN, "equal"),
        (NAN, 1.0, "moved"),
        (None, 1.0, "new"),
        (None, NAN, "new"),
    ],
)
def test_a_metric_is_judged_by_its_rule(before: float | None, now: float | None, expected: str) -> None:
    assert judge(before, now) == expected


@pytest.mark.parametrize(
    ("worse", "up", "down", "appeared", "gone"),
    [
        ("higher", "worse", "better", "moved", "vanished"),
        ("lower", "better", "worse", "moved", "vanished"),
        ("any", "worse", "worse", "worse", "vanished"),
        ("none", "moved", "moved", "moved", "moved"),
    ],
)
def test_every_direction_can_be_worse(worse: str, up: str, down: str, appeared: str, gone: str) -> None:
    rule = Rule(match="*", worse=worse)
    assert [judge(1.0, 2.0, rule), judge(1.0, 0.0, rule), judge(NAN, 1.0, rule), judge(1.0, NAN, rule)] == [
        up,
        down,
        appeared,
        gone,
    ]
    assert judge(1.0, None, rule) == "vanished"


def test_the_first_rule_that_matches_applies_and_rounding_is_forgiven_without_one() -> None:
    rules = (Rule(match="a.*.h1", absolute=1.0), Rule(match="a.*", absolute=9.0))
    tolerances = Tolerances(rules=rules)
    now = {"a.b.h1": 2.0, "a.b.c.h1": 0.9, "a.b.h2": 8.0, "b": 1e-13, "c": 1e-11, "d": 1e9 + 0.5, "A.b.h2": 8.0}
    before = dict.fromkeys(now, 0.0) | {"d": 1e9}
    verdicts = {one.metric: one.verdict for one in compare_metrics(before, now, tolerances)}
    assert verdicts == {
        "a.b.h1": "worse",
        "a.b.c.h1": "within",
        "a.b.h2": "within",
        "b": "within",
        "c": "worse",
        "d": "within",
        "A.b.h2": "worse",
    }


@pytest.mark.parametrize(
    ("metric", "before", "now", "expected"),
    [
        ("forecast.a.crps_bps.close.h1", 100.0, 101.0, "worse"),
        ("forecast.a.crps_bps.close.h1", 100.0, 99.0, "better"),
        ("strategy.a.sharpe", 1.0, 0.9, "worse"),
        ("strategy.a.sharpe", 1.0, 1.1, "better"),
        ("forecast.a.coverage90.close.h1", 88.0, 91.0, "better"),
        ("forecast.a.coverage90.close.h1", 88.0, 93.0, "worse"),
        ("forecast.a.bias_bps.close.h1", -3.0, -2.0, "better"),
        ("forecast.a.pit_p.close.h1", 0.5, 0.4, "moved"),  # neither direction is better
        ("strategy.a.max_drawdown", 0.1, 0.3, "moved"),  # no interval says that this is more than chance
        ("strategy.a.max_drawdown", 0.3, 0.1, "better"),
        ("strategy.a.exposure", 0.3, 0.1, "moved"),
        ("forecast.a.pit_p.close.h1", 0.5, 0.5 + 1e-7, "within"),  # the table's tolerance
        ("forecast.a.crps_bps.close.h1", 0.5, 0.5 + 1e-7, "worse"),
        ("forecast.a.crps_bps.close.h1", NAN, 1.0, "moved"),
    ],
)
def test_where_no_rule_says_so_the_score_table_decides(metric: str, before: float, now: float, expected: str) -> None:
    assert compare_metrics({metric: before}, {metric: now}, Tolerances())[0].verdict == expected


def test_a_rule_that_names_no_direction_leaves_it_to_the_score_table() -> None:
    rules = Tolerances(rules=(Rule(match="*", absolute=0.5),))
    metric = "forecast.a.coverage90.close.h1"
    assert [compare_metrics({metric: 88.0}, {metric: now}, rules)[0].verdict for now in (88.4, 90.0, 95.0)] == [
        "within",
        "better",
        "worse",
    ]


def test_only_what_a_baseline_keeps_can_be_new() -> None:
    tolerances = Tolerances(keep=("kept.*",), drop=("*.by_*",))
    now = {"kept.a": 1.0, "kept.by_month.a": 1.0, "dropped.a": 1.0, "other": 1.0}
    got = compare_metrics({"other": 1.0}, now, tolerances)
    assert [(one.metric, one.verdict) for one in got] == [("kept.a", "new"), ("other", "equal")]


def test_a_new_metric_does_not_fail_and_a_vanished_one_does() -> None:
    got = compare_metrics({"gone": 1.0}, {"new": 1.0}, Tolerances())
    assert [(one.metric, one.failed) for one in moved(got)] == [("gone", True), ("new", False)]


def test_a_baseline_comes_back_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "new" / "metrics.json"
    metrics = {"b": 0.1 + 0.2, "a": NAN, "c": -1e-300, "x.y": 3.0}
    assert write_baseline(file, metrics, Tolerances(keep=("?",))) == 3
    assert list(json.loads(file.read_text())) == ["a", "b", "c"]
    got, about = read_baseline(file)
    assert math.isnan(got.pop("a"))
    assert (got, about) == ({"b": 0.1 + 0.2, "c": -1e-300}, {})
    before = file.read_bytes()
    write_baseline(file, metrics, Tolerances(keep=("?",)))
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such baseline; create it with --update"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "expected a JSON object of numbers"),
        ('{"a": "1"}', "'a' is '1'; expected a number or null"),
        ('{"a": true}', "'a' is True"),
        ('{"a": {"b": 1}}', "expected a number or null"),
        ('{"about": 1}', "'about' is no object of texts"),
    ],
)
def test_a_baseline_that_is_none_is_named(tmp_path: Path, content: str | None, says: str) -> None:
    file = tmp_path / "metrics.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=says):
        read_baseline(file)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rules:\n  - match: a\n    worse: up\n", r":3: .*'higher', 'lower', 'any' or 'none'"),
        ("rules:\n  - match: a\n    absolut: 1.0\n", r":3: unknown key"),
        ("rules:\n  - absolute: 1.0\n", r"'rules.0.match' is missing"),
        ("rules:\n  - match: a\n    relative: -1.0\n", r":3: .*greater than or equal to 0"),
    ],
)
def test_wrong_tolerances_name_their_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "tolerances.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_tolerances(file)


def test_tolerances_are_read_from_yaml(tmp_path: Path) -> None:
    file = tmp_path / "tolerances.yaml"
    file.write_text('keep: ["a.*"]\nrules:\n  - {match: "a.*", relative: 1.0e-3, worse: lower}\n')
    expected = Tolerances(keep=("a.*",), rules=(Rule(match="a.*", relative=1e-3, worse="lower"),))
    assert read_tolerances(file) == expected


NASTY = 'a<b>&"c"\x00\x1b[0m|`x`_]]>é\ud800'


def nasty() -> list[Comparison]:
    return compare_metrics({NASTY: 1.0, "fine": 2.0, "gone": 1.0}, {NASTY: 2.0, "fine": 2.0}, Tolerances())


def test_junit_xml_is_well_formed_whatever_a_metric_is_called() -> None:
    root = ElementTree.fromstring(check_junit(nasty(), "run <1> & \x07"))  # noqa: S314 - our own
    suite = root.find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "2", "0")
    cases = suite.findall("testcase")
    assert [case.find("failure") is not None for case in cases] == [True, False, True]
    assert cases[0].get("name") == 'a<b>&"c"\ufffd\ufffd[0m|`x`_]]>é\ufffd'
    failure = cases[0].find("failure")
    assert failure is not None
    assert failure.get("type") == "worse"
    assert "baseline 1, now 2, change +1" in str(failure.get("message"))


def test_markdown_cells_cannot_break_the_table() -> None:
    lines = check_markdown(compare_metrics({"a|b\n`c`": 1.0}, {"a|b\n`c`": 2.0}, Tolerances()), "x").splitlines()
    assert lines[-1] == r"| a\|b \`c\` | 1 | 2 | +1 | 1e-09 |  | worse |"


def test_the_table_shows_failures_first_and_counts_the_rest() -> None:
    console = Console(width=120)
    before = {f"m{n:03d}": 0.0 for n in range(100)}
    now = dict.fromkeys(before, 1.0) | {"extra": 1.0}
    comparisons = compare_metrics(before, now, Tolerances(rules=(Rule(match="m0*", worse="lower"), Rule(match="*"))))
    lower = Tolerances(rules=(Rule(match="m*", worse="lower"),))
    with console.capture() as capture:
        console.print(check_table(compare_metrics(before | {"zzz": 1.0}, now, lower)))
    text = capture.get()
    assert text.index("zzz") < text.index("m000")
    assert "and 82 more (81 worse, 1 new)" in text or "and 82 more (81 better, 1 new)" in text
    assert verdict(comparisons) == "101 metrics: 0 equal, 0 within tolerance, 100 better, 1 new; the check passes"


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A run's folder with a few metrics."""
    folder = tmp_path / "runs" / "x" / "abc"
    folder.mkdir(parents=True)
    config = {
        "name": "x",
        "candles": {"path": "bundled:BTCUSD_1h"},
        "windows": {"context": 9, "horizon": 2, "start": "2019-06-01", "end": "2019-06-02"},
    }
    (folder / "manifest.json").write_text(json.dumps({"config": config}))
    (folder / "metrics.json").write_text(json.dumps({"crps": 2.0, "sharpe": 1.0, "undefined": None}))
    return folder


@pytest.fixture
def check(stored: Path, tmp_path: Path) -> Callable[..., Result]:
    def invoke(*options: str, summary: Path | None = None) -> Result:
        command = ["check", str(stored), "--baseline", str(tmp_path / "baseline.json"), *options]
        return CliRunner().invoke(app, command, env={"GITHUB_STEP_SUMMARY": str(summary) if summary else None})

    return invoke


def test_a_check_fails_with_a_table_where_a_metric_got_worse(check: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "baseline.json").write_text('{"crps": 1.0, "sharpe": 1.0, "undefined": null}')
    (tmp_path / "t.yaml").write_text('rules: [{match: "*", worse: higher}]\n')
    result = check("--tolerances", str(tmp_path / "t.yaml"))
    assert result.exit_code == 1
    assert "crps" in result.stdout
    assert "sharpe" not in result.stdout
    assert "3 metrics: 2 equal, 0 within tolerance, 1 worse; the check fails" in result.stdout
    (tmp_path / "t.yaml").write_text('rules: [{match: "*", worse: lower}]\n')
    assert check("--tolerances", str(tmp_path / "t.yaml")).exit_code == 0


def test_a_vanished_metric_fails(check: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "baseline.json").write_text('{"crps": 2.0, "gone": 1.0}')
    result = check()
    assert result.exit_code == 1
    assert "1 vanished" in result.stdout


def test_an_update_accepts_what_is_there(check: Callable[..., Result], tmp_path: Path) -> None:
    missing = check()
    assert missing.exit_code == 2
    assert "no such baseline; create it with --update" in missing.stderr
    assert check("--update").exit_code == 0
    assert check().exit_code == 0
    (tmp_path / "baseline.json").write_text("broken")
    assert check().exit_code == 2
    assert check("--update").exit_code == 0
    assert json.loads((tmp_path / "baseline.json").read_text()) == {"crps": 2.0, "sharpe": 1.0, "undefined": None}


def test_machines_are_told_too(check: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "baseline.json").write_text('{"crps": 1.0}')
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    assert check("--junit", str(tmp_path / "out" / "j.xml"), summary=summary).exit_code == 1
    text = summary.read_text()
    assert text.startswith("before\n### x against baseline.json")
    assert "| crps | 1 | 2 | +1 |" in text
    suite = ElementTree.parse(tmp_path / "out" / "j.xml").getroot()[0]  # noqa: S314 - our own
    assert suite.get("failures") == "1"


def test_a_place_that_cannot_be_written_and_a_run_that_is_none_are_one_line(
    check: Callable[..., Result], stored: Path, tmp_path: Path
) -> None:
    (tmp_path / "baseline.json").write_text("{}")
    result = check("--junit", str(tmp_path))
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
    (stored / "metrics.json").unlink()
    result = check()
    assert result.exit_code == 2
    assert "not a run" in result.stderr


def test_another_run_may_be_the_baseline(stored: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(stored, other)
    (other / "metrics.json").write_text(json.dumps({"crps": 1.0}))
    command = ["check", str(stored), "--baseline", str(other)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "crps" in result.stdout
    assert CliRunner().invoke(app, [*command, "--update"]).exit_code == 2


def test_a_forecaster_that_one_side_lacks_is_one_line() -> None:
    before = {f"forecast.gone.crps_bps.close.h{k}": 1.0 for k in range(1, 30)} | {"forecast.kept.energy_bps": 1.0}
    now = {"forecast.kept.energy_bps": 1.0, "forecast.added.energy_bps": 1.0}
    comparisons = compare_metrics(before, now, Tolerances())
    text = check_markdown(comparisons, "x")
    assert (
        r"not compared: forecast.gone (29 metrics), which this run lacks".replace("(", r"\(").replace(")", r"\)")
        in text
    )
    assert "forecast.added" in text
    assert "| " not in text
    assert any(one.failed for one in comparisons)


def test_failures_come_first_then_headline_scores() -> None:
    before = {"strategy.a.max_drawdown": 0.1, "strategy.a.sharpe": 1.0, "forecast.a.crps_bps.close.h1": 9.0}
    now = {"strategy.a.max_drawdown": 0.9, "strategy.a.sharpe": 0.1, "forecast.a.crps_bps.close.h1": 8.0}
    assert [one.metric for one in moved(compare_metrics(before, now, Tolerances()))] == [
        "strategy.a.sharpe",
        "forecast.a.crps_bps.close.h1",
        "strategy.a.max_drawdown",
    ]
