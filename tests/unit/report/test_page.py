"""The page of a run: it loads nothing, shows names as text, stays small, and says what it leaves out."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from btcbt.config import RunConfig
from btcbt.metrics.distribution import sample_quantiles
from btcbt.report.page import books, payload, write_page
from btcbt.report.page.fans import LEVELS, MEDIAN, Closes, fewer_steps, quantile_steps, read_fans
from btcbt.report.page.render import asset
from btcbt.report.page.series import losses_over_time, pit_shares
from btcbt.storage.runs import Run, load_run
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


def test_fans_that_do_not_fit_lose_every_second_step_and_then_are_left_out(
    traded: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fewer_steps(24) == [1, *range(2, 25, 2)]
    whole, none_said = payload.page_payload(traded)
    assert none_said == []
    size = sum(map(len, whole.values()))
    monkeypatch.setattr(payload, "MOST_CHARACTERS", size - 100)
    thin, said = payload.page_payload(traded)
    meta = meta_of(thin)
    steps = {one["name"]: fan["steps"] for one, fan in zip(meta["forecasters"], meta["fans"], strict=True)}
    assert steps == {"random_walk": [1, 2, 3], "drift": [1, 3]}
    assert said == ["Every second step is interpolated, for the size of the page: drift."]
    kept = unpacked(np.frombuffer(gzip.decompress(base64.b64decode(thin["quantiles1"])), np.uint8), (24, 2, 7))
    full = unpacked(np.frombuffer(gzip.decompress(base64.b64decode(whole["quantiles1"])), np.uint8), (24, 3, 7))
    assert np.array_equal(kept, full[:, [0, 2]])
    monkeypatch.setattr(payload, "MOST_CHARACTERS", 1)
    least, said = payload.page_payload(traded)
    assert "quantiles0" in least
    assert "quantiles1" not in least
    assert said == ["Fans are left out for the size of the page, scores are not: drift."]


def meta_of(blobs: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(blobs["meta"])))
    return found


def test_rounded_fans_are_within_a_share_of_their_own_width(traded: Run) -> None:
    closes = Closes.of(traded)
    fine, coarse = (read_fans(traded, "drift", closes, fine=fine) for fine in (True, False))
    assert (coarse.units >= 1).all()
    assert coarse.units[-1] > 1
    gap = np.abs(coarse.quantiles * coarse.units[:, None] - fine.quantiles)
    assert (gap <= coarse.units[:, None] / 2 + 0.51).all()


def test_coverage_and_its_band_are_those_of_the_scores_where_they_are_stored(traded: Run) -> None:
    found = {one["level"]: one for one in read_fans(traded, "drift", Closes.of(traded), fine=True).coverage}
    for step in (1, 3):
        stored = traded.metrics[f"forecast.drift.coverage90.close.h{step}"]
        assert found[90]["share"][step - 1] == pytest.approx(stored, abs=0.01)
        for end in ("low", "high"):
            assert found[90][end][step - 1] == pytest.approx(
                traded.metrics[f"forecast.drift.coverage90_{end}.h{step}"], abs=0.01
            )
    assert sorted(found) == [50, 80, 90, 95]


def test_charts_hold_few_accounts_of_many_and_say_so(traded: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(traded.directory, tmp_path / "copy")
    for table in ("equity", "targets"):
        frame = pd.read_parquet(copy / f"{table}.parquet")
        more = {f"s{k}@drift": frame["momentum"] * (1 + 0.001 * k) for k in range(60)}
        frame.assign(**more).to_parquet(copy / f"{table}.parquet", index=False)
    blobs, said = payload.page_payload(load_run(copy))
    names = [one["name"] for one in meta_of(blobs)["accounts"]]
    assert len(names) == books.MOST_ACCOUNTS
    assert {"momentum", "buy_and_hold", "s59@drift"} <= set(names)
    assert said == ["Charts hold 40 of 62 accounts, the best and those on the main forecaster."]


def test_text_has_the_contrast_of_wcag_aa_in_both_themes() -> None:
    """Success criterion 1.4.3: 4.5 to 1, from the colours that the style declares."""
    css = asset("page.css")
    themes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root[^{]*\{([^}]*)\}", css)]
    assert len(themes) == 4  # light, dark by choice, dark by the system, print
    assert themes[1] == themes[2]
    for theme in themes:
        for text in {"ink", "soft", "link"} & set(theme):
            assert contrast(theme[text], theme["paper"]) >= 4.5, (text, theme)
    # Cells of the heat map have a fixed text colour on their own backgrounds.
    (cell,) = re.findall(r"td\.gain1[^}]*?[ {]color: (#\w{6})", css)
    backgrounds = re.findall(r"\.(?:gain|loss)\d \{ background: (#\w{6})", css)
    assert len(backgrounds) == 6
    assert min(contrast(cell, one) for one in backgrounds) >= 4.5
    # Nothing else sets a colour of text.
    assert set(re.findall(r"[ {]color: ([^;]+);", css)) == {"var(--ink)", "var(--soft)", "var(--link)", cell}


def contrast(first: str, second: str) -> float:
    """WCAG 2.2, relative luminance."""
    shares = [[int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)] for colour in (first, second)]
    linear = [[s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in one] for one in shares]
    low, high = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in linear)
    return (high + 0.05) / (low + 0.05)


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
