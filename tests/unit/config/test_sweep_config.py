from __future__ import annotations

import pytest

from btcbt.config.sweep import load_sweep
from btcbt.errors import ConfigError

EXPERIMENT = """
name: base
candles: {path: "bundled:BTCUSD_1h"}
windows: {start: 2019-06-01, end: 2019-06-08, context: 24, horizon: 4}
forecasters:
  walk: {kind: random_walk, n_paths: 5}
strategies:
  threshold: {use: threshold}
"""
ENTRY = "strategies.threshold.params.entry_bps"


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(EXPERIMENT)

    def write(text):
        (tmp_path / "sweep.yaml").write_text(f"name: s\nexperiment: base.yaml\n{text}")
        return load_sweep("sweep.yaml")

    return write


def test_a_grid_is_every_combination_and_whole_numbers_stay_whole(load):
    _, experiments = load(f"over:\n  {ENTRY}: [10, 20.5]\n  forecasters.walk.n_paths: {{from: 2, to: 6, steps: 3}}\n")
    found = [(one[ENTRY], config.forecasters["walk"].n_paths) for one, config in experiments]
    assert found == [(10, 2), (10, 4), (10, 6), (20.5, 2), (20.5, 4), (20.5, 6)]


def test_a_logarithmic_range_has_equal_ratios(load):
    sweep, _ = load(f"over:\n  {ENTRY}: {{from: 1, to: 100, steps: 3, log: true}}\n")
    assert sweep.values(ENTRY) == pytest.approx([1, 10, 100])


def test_a_random_search_is_repeatable_and_stays_in_its_ranges(load):
    text = f"over:\n  {ENTRY}: {{from: 5, to: 50}}\n  portfolio.max_short: [0, 1]\nsearch: {{trials: 30, seed: 3}}\n"
    first, second = (load(text)[1] for _ in range(2))
    assert [one for one, _ in first] == [one for one, _ in second]
    assert len(first) == 30
    assert all(5 <= one[ENTRY] <= 50 for one, _ in first)
    assert {one["portfolio.max_short"] for one, _ in first} == {0, 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("over: {}\n", "over"),
        (f"over:\n  {ENTRY}: []\n", "at least 1 item"),
        (f"over:\n  {ENTRY}: {{from: 5, to: 5}}\n", "from 5 is not below to 5"),
        (f"over:\n  {ENTRY}: {{from: 0, to: 5, log: true}}\n", "not above 0, which log needs"),
        (f"over:\n  {ENTRY}: {{from: 5, to: .inf}}\n", "finite"),
        (f"over:\n  {ENTRY}: {{from: 0, to: 1, steps: 1000}}\n  portfolio.max_long: {{from: 0, to: 1, steps: 1000}}\n",
         "a grid of 1,000,000 configurations; at most 20,000 are run"),
        ("over:\n  windows.horizon: [1, 2]\n", "'windows.horizon' is not a key of strategies, forecasters, portfolio"),
        ("over:\n  portfolio.fee_bps: [1, 2]\n", "'portfolio.fee_bps' is given, not chosen"),
        ("over:\n  strategies.treshold.params.entry_bps: [1]\n", "there is no 'treshold' in the experiment"),
        ("over:\n  strategies.threshold.params.entry_bps.x.y: [1]\n", "entry_bps"),
        ("over:\n  forecasters.walk.paths: [1]\n", "forecasters.walk.paths=1"),
        (f"over:\n  {ENTRY}: [1]\nstrategies: [other]\n", "strategies: 'other' is not in base.yaml"),
        (f"over:\n  {ENTRY}: [1]\nselect: {{trade: 0d}}\n", "trade 0d is empty"),
    ],
)  # fmt: skip
def test_a_sweep_that_cannot_be_run_is_refused_in_one_line(load, text, message):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "sweep.yaml" in str(caught.value)


def test_keys_that_all_configurations_share_are_set_and_swept_ones_refused(load):
    load(f"over:\n  {ENTRY}: [10, 20]\n")
    _, experiments = load_sweep("sweep.yaml", ["forecasters.walk.n_paths=7", "portfolio.fee_bps=1"])
    assert [(one[ENTRY], config.forecasters["walk"].n_paths) for one, config in experiments] == [(10, 7), (20, 7)]
    assert {config.portfolio.fee_bps for _, config in experiments} == {1.0}
    with pytest.raises(ConfigError, match="the sweep varies this key; change its values"):
        load_sweep("sweep.yaml", [f"{ENTRY}=3"])
    with pytest.raises(ConfigError, match=r"unknown key 'sead' \(did you mean 'seed'\?\)"):
        load_sweep("sweep.yaml", ["sead=3"])
