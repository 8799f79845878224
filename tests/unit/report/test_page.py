"""The page of a run: it loads nothing, shows names as text, stays small, and says what it leaves out."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from btcbt.config import RunConfig
from btcbt.metrics.distribution import sample_quantiles
from btcbt.report.page import write_page
from btcbt.report.page.payload import LEVELS, MEDIAN, quantile_steps
from btcbt.report.page.series import losses_over_time, pit_shares
from btcbt.storage.runs import Run
from btcbt.walkforward.runner import run


def experiment(folder: Path, **changes: object) -> RunConfig:
    keys = {
        "name": "paged",
        "candles": {"path": "bundled:BTCUSD_1h", "interval": "1h"},
        "windows": {"start": "2019-06-01", "end": "2019-06-02", "context": 30, "horizon": 3},
        "forecasters": {name: {"kind": name, "n_paths": 4} for name in ("random_walk", "drift")},
        "strategies": {"momentum": {"use": "momentum", "params": {"lookback": 12}}},
        "store": {"root": str(folder)},
        "seed": 3,
    }
    return RunConfig.model_validate_json(json.dumps(keys | changes))


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(experiment(tmp_path_factory.mktemp("traded")))


def blob(text: str, name: str) -> bytes:
    found = re.search(rf'id="blob-{name}">([^<]*)<', text)
    assert found is not None, name
    return gzip.decompress(base64.b64decode(found[1]))


def test_a_run_writes_its_page_and_the_page_loads_nothing(traded: Run) -> None:
    text = (traded.directory / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""\s(?:src|action)\s*=|\shref\s*=\s*["']?[^#"']|@import|url\(|https?://""", text)
    assert "default-src 'none'" in text
    assert len(text) < 300_000


def test_the_policy_names_the_digests_of_the_style_and_the_script(traded: Run) -> None:
    text = (traded.directory / "report.html").read_text(encoding="utf-8")
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in text


def test_contamination_is_drawn_by_label(traded: Run) -> None:
    text = (traded.directory / "report.html").read_text(encoding="utf-8")
    assert text.count('class="label-clean"') == 2
    assert "drift: clean 2019-06-01 00:00 to 2019-06-01 23:00" in text


def test_names_of_other_people_stay_text(traded: Run) -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    manifest = dict(traded.manifest) | {"code": {"commit": hostile}}
    text = write_page(dataclasses.replace(traded, manifest=manifest)).read_text(encoding="utf-8")
    assert hostile not in text
    assert "&lt;/script&gt;&lt;img" in text
    write_page(traded)


def test_the_page_holds_the_quantiles_of_every_origin_to_a_basis_point(traded: Run) -> None:
    text = (traded.directory / "report.html").read_text(encoding="utf-8")
    paths = traded.forecasts("drift").paths()[..., 3]
    meta, candles = json.loads(blob(text, "meta")), traded.candles()["close"].to_numpy()
    last = candles[np.searchsorted(meta["times"], meta["origins"]) - 1]
    wanted = np.rint(
        1e4 * (sample_quantiles(np.sort(paths, axis=1).transpose(0, 2, 1), LEVELS) / last[:, None, None] - 1)
    )
    found = unpacked(np.frombuffer(blob(text, "quantiles1"), dtype=np.uint8), wanted.shape)
    assert np.abs(found - wanted).max() <= 1


def test_quantiles_of_any_size_come_back_exactly(rng: np.random.Generator) -> None:
    quantiles = np.sort(rng.integers(-32767, 32768, (5, 4, 7)).astype(np.int16), axis=2)
    assert np.array_equal(unpacked(quantile_steps(quantiles).ravel(), quantiles.shape), quantiles)


def unpacked(content: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse that the page's script computes."""
    low, high = content.reshape(2, -1).astype(np.uint16)
    folded = (low | high << 8).reshape(shape[2], shape[1], shape[0])
    changes = (folded >> 1).astype(np.int16) ^ -(folded & 1).astype(np.int16)
    parts = np.cumsum(changes, axis=1, dtype=np.int16).transpose(2, 1, 0)
    found = np.empty(shape, dtype=np.int16)
    found[..., MEDIAN] = parts[..., 0]
    for q in range(MEDIAN + 1, shape[2]):
        found[..., q] = found[..., q - 1] + parts[..., q]
    for q in range(MEDIAN - 1, -1, -1):
        found[..., q] = found[..., q + 1] - parts[..., q + 1]
    return found


def test_a_calibrated_forecast_has_a_flat_histogram_whatever_the_number_of_paths(rng: np.random.Generator) -> None:
    below = rng.integers(0, 31, 200_000)
    assert pit_shares(below / 31, (below + 1) / 31) == pytest.approx(np.ones(10), abs=0.03)
    assert pit_shares(np.array([0.0, np.nan]), np.array([0.2, np.nan])) == [5, 5, 0, 0, 0, 0, 0, 0, 0, 0]
    assert pit_shares(np.empty(0), np.empty(0)) == []


def test_the_page_has_the_losses_by_hour_and_does_without_where_none_are_stored(traded: Run, tmp_path: Path) -> None:
    losses = traded.losses()["drift.crps_bps.h3"]
    hours = losses_over_time(traded)["hours"]["drift"]
    assert hours[5] == pytest.approx(losses[losses.index.hour == 5].mean(), abs=0.01)
    older = dataclasses.replace(traded, directory=tmp_path)
    assert losses_over_time(older) == {"hours": {}, "fluctuation": []}


def test_sections_without_data_are_one_sentence(tmp_path: Path) -> None:
    windows = {"start": "2019-09-30T22:00", "end": "2019-10-01", "context": 30, "horizon": 3}
    last = run(experiment(tmp_path, windows=windows, strategies={}))
    text = (last.directory / "report.html").read_text(encoding="utf-8")
    assert last.manifest["origins"]["scored"] == 0
    assert "No strategy trades in this run." in text
    assert "no forecast is scored" in text
    assert 'id="equity"' not in text
    assert 'id="fan"' in text
