from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from btcbt.cli.main import app
from btcbt.config.changes import load_changed, parse_change
from btcbt.errors import ConfigError

EXPERIMENT = """
name: base
candles: {path: "bundled:BTCUSD_1h"}
windows: {start: 2019-06-01, end: 2019-06-04, context: 24, horizon: 4}
forecasters:
  walk: {kind: random_walk, n_paths: 5}
  a.b: {kind: drift}
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(EXPERIMENT)
    return "base.yaml"


def test_changes_are_typed_as_yaml_is_and_names_may_contain_dots(file):
    config = load_changed(
        file, ["forecasters.walk.n_paths=7", "forecasters.a.b.n_paths=3", "windows.end=2019-06-03", "seed=4"]
    )
    assert (config.forecasters["walk"].n_paths, config.forecasters["a.b"].n_paths, config.seed) == (7, 3, 4)
    assert config.windows.end.day == 3
    assert load_changed(file, ["portfolio.fee_bps=1.5"]).portfolio.fee_bps == 1.5
    assert parse_change("a=true") == ("a", True)
    assert parse_change("a=") == ("a", None)
    assert parse_change("a=x=y") == ("a", "x=y")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("forecaster.walk.n_paths=3", "there is no 'forecaster' in the experiment"),
        (
            "forecasters.wolk.n_paths=3",
            "there is no 'wolk' in the experiment (did you mean 'walk'?); it has ['a.b', 'walk']",
        ),
        (
            "forecasters.walk.paths=3",
            "with forecasters.walk.paths=3: unknown key 'forecasters.walk.paths' (did you mean 'n_paths'?)",
        ),
        ("forecasters.walk.n_paths=many", "with forecasters.walk.n_paths='many'"),
        ("seed={a: [", "the value is not YAML"),
        ("seed=!!python/object:os.system x", "the value is not YAML"),
    ],
)
def test_a_change_that_names_nothing_or_is_malformed_is_refused_in_one_line(file, change, message):
    with pytest.raises(ConfigError) as caught:
        load_changed(file, [change])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_runs_what_was_changed_and_the_manifest_says_so(file, tmp_path):
    result = CliRunner().invoke(
        app, ["run", file, "--quiet", "--set", "forecasters.walk.n_paths=4", "--set", "name=two"]
    )
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "runs/two/latest/manifest.json").read_text())
    assert manifest["config"]["forecasters"]["walk"]["n_paths"] == 4
    result = CliRunner().invoke(app, ["audit", file, "--set", "forecasters.walk.n_paths"])
    assert result.exit_code == 2
    assert "expected KEY=VALUE" in result.output
