"""``btcbt predict``: the forecast of a walk-forward at the newest origin, written whole or not at all."""

from __future__ import annotations

import csv
import json
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from btcbt.candles import make_candles, read_candles, write_candles
from btcbt.cli.main import app
from btcbt.config import KronosConfig, WindowsConfig, time_ms, time_text
from btcbt.errors import CandleError, ConfigError
from btcbt.forecasters import create_forecaster
from btcbt.models.kronos import Kronos, KronosTokenizer
from btcbt.models.kronos.checkpoints.files import write_data_ranges
from btcbt.models.kronos.checkpoints.locate import fitted_context
from btcbt.models.kronos.shapes import ModelConfig, TokenizerConfig
from btcbt.records import CHANNELS, CLOSE, VOLUME, DataRange, Window
from btcbt.report.prediction import units
from btcbt.windows import make_windows
from btcbt.workflows.predict import LEVELS, higher_volatility, kronos_config, predict, share, symbol_of

SHAPE = {"d_model": 32, "n_heads": 2, "ff_dim": 48, "s1_bits": 5, "s2_bits": 5}
NO_DROPOUT = {"ffn_dropout_p": 0.0, "attn_dropout_p": 0.0, "resid_dropout_p": 0.0}
CODER = {"d_in": 6, "n_enc_layers": 3, "n_dec_layers": 3, "beta": 0.05, "gamma0": 1.0, "gamma": 1.1, "zeta": 0.05}
HOUR = 3_600_000


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A small random pair that looked at candles up to 2019-01-02."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pair")
    KronosTokenizer(TokenizerConfig(**SHAPE, **NO_DROPOUT, **CODER, group_size=5)).save_pretrained(folder / "tokenizer")
    Kronos(ModelConfig(**SHAPE, **NO_DROPOUT, n_layers=2, token_dropout_p=0.0, learn_te=True)).save_pretrained(
        folder / "model"
    )
    write_data_ranges(folder, (DataRange("pretraining", 0, time_ms_of(2019, 1, 2)),))
    return folder


def time_ms_of(*date: int) -> int:
    from datetime import UTC

    return time_ms(datetime(*date, tzinfo=UTC))


@pytest.fixture
def history(make_history, tmp_path):
    """Four days of hours in a file."""
    file = tmp_path / "BTCUSDT_1h.parquet"
    write_candles(make_history(96), file)
    return file


@pytest.fixture
def small(checkpoint):
    return kronos_config(checkpoint=str(checkpoint), n_paths=5, device="cpu")


@pytest.fixture
def made(history, small, tmp_path):
    return predict(history, context=40, horizon=6, seed=3, forecaster=small, output=tmp_path / "out")


def test_the_forecast_is_the_walk_forward_s_at_that_origin(made, history, checkpoint):
    candles = read_candles(history)
    origin = int(candles.open_time[-1]) + HOUR
    start = datetime.fromisoformat(time_text(origin - 3 * HOUR).replace("Z", "+00:00"))
    end = datetime.fromisoformat(time_text(origin + HOUR).replace("Z", "+00:00"))
    config = WindowsConfig(context=40, horizon=6, start=start, end=end)
    windows = make_windows(candles, config)
    assert len(windows) == 4
    forecaster = create_forecaster(KronosConfig(checkpoint=str(checkpoint), n_paths=5, device="cpu"), config, 3)
    batch = forecaster.forecast(windows[:])
    assert batch.origins[-1] == origin == made.window.origin
    np.testing.assert_allclose(made.paths, batch.paths[-1], rtol=1e-5)
    alone = forecaster.forecast(windows[-1:])
    np.testing.assert_array_equal(made.paths, alone.paths[0])
    assert not np.allclose(made.paths, batch.paths[0])


def test_another_seed_gives_other_paths_and_the_same_one_the_same_files(history, small, tmp_path, made):
    again = predict(history, context=40, horizon=6, seed=3, forecaster=small, output=tmp_path / "again")
    other = predict(history, context=40, horizon=6, seed=4, forecaster=small, output=tmp_path / "other")
    for name in ("candles.csv", "forecast.json", "forecast.png"):
        assert (made.folder / name).read_bytes() == (again.folder / name).read_bytes(), name
    assert not np.allclose(other.paths, made.paths)


def test_the_table_holds_medians_and_quantiles_of_each_candle(made):
    with (made.folder / "candles.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    for step, row in enumerate(rows):
        assert row["open_time"] == time_text(made.window.origin + step * HOUR)
        for index, name in enumerate(CHANNELS):
            assert float(row[name]) == pytest.approx(np.median(made.paths[:, step, index].astype(float)))
        for index in (CLOSE, VOLUME):
            for level in LEVELS:
                expected = np.quantile(made.paths[:, step, index].astype(float), level)
                assert float(row[f"{CHANNELS[index]}_q{100 * level:g}"]) == pytest.approx(expected)


def test_the_summary_says_what_made_the_forecast(made, checkpoint):
    said = json.loads((made.folder / "forecast.json").read_text())
    assert said["origin"] == "2019-01-05T00:00Z"
    assert said["symbol"] == "BTCUSDT"
    assert said["parameters"]["seed"] == 3
    assert (said["parameters"]["context"], said["parameters"]["horizon"], said["parameters"]["n_paths"]) == (40, 6, 5)
    assert len(said["forecaster"]["model_sha256"]) == len(said["forecaster"]["tokenizer_sha256"]) == 64
    rises = np.mean(made.paths[:, -1, CLOSE] > made.window.last_close)
    assert said["probability_of_rise"]["value"] == pytest.approx(rises)
    assert said["contamination"]["label"] == "clean"
    assert said["contamination"]["declared"][0]["end"] == "2019-01-02T00:00Z"
    assert np.shape(said["quantiles"]["close"]) == (6, len(LEVELS))
    assert "advice" not in said["what"]


@pytest.mark.parametrize(
    ("ranges", "label"),
    [
        ((DataRange("finetuning", 0, 2**42),), "seen"),
        ((DataRange("selection", 0, 2**42),), "selected-on"),
        (None, "unknown"),
    ],
)
def test_contamination_is_said(history, checkpoint, tmp_path, ranges, label):
    import shutil

    folder = tmp_path / "other"
    shutil.copytree(checkpoint, folder)
    write_data_ranges(folder, ranges)
    config = kronos_config(checkpoint=str(folder), n_paths=2, device="cpu")
    made = predict(history, context=30, horizon=2, forecaster=config, output=tmp_path / "out")
    assert made.summary["contamination"]["label"] == label


@pytest.mark.parametrize(
    ("ranges", "label"), [((DataRange("finetuning", 0, 2**42),), "seen"), ((), "clean"), (None, "unknown")]
)
def test_contamination_counts_what_a_separate_tokenizer_has_looked_at(history, checkpoint, tmp_path, ranges, label):
    tokenizer = shutil.copytree(checkpoint / "tokenizer", tmp_path / "coder")
    if ranges is not None:
        write_data_ranges(tokenizer, ranges)
    result = invoke(
        history, "--checkpoint", checkpoint, "--tokenizer", tokenizer, "--context", 30, "--horizon", 2, "--paths", 2,
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "forecast.json").read_text())["contamination"]["label"] == label
    assert f"{label}: " in result.stdout


def test_higher_volatility_compares_a_candle_s_mean_square_with_the_last_day_s(rng):
    closes = 100 * np.exp(np.cumsum(0.01 * rng.standard_normal(31)))
    values = np.repeat(closes[:, None], 6, axis=1)
    window = Window(HOUR * np.arange(31, dtype=np.int64), values, HOUR)
    calm = np.full((1, 10, 6), closes[-1], np.float32)
    wild = calm * np.where(np.arange(10) % 2, 1.5, 1.0)[None, :, None].astype(np.float32)
    broken = -calm
    said = higher_volatility(window, np.concatenate([calm, wild, broken, calm]))
    day = [np.log(closes[i] / closes[i - 1]) ** 2 for i in range(7, 31)]
    assert said["last_day_bps_per_candle"] == pytest.approx(1e4 * np.sqrt(sum(day) / 24))
    assert said["value"] == 0.5
    assert higher_volatility(window, broken)["median_bps_per_candle"] is None
    four_hours = Window(window.open_time * 4, values, 4 * HOUR)
    assert higher_volatility(four_hours, calm)["last_day_candles"] == 6
    short = Window(window.open_time[:24], values[:24], HOUR)
    assert higher_volatility(short, calm) is None


def test_a_share_has_the_wilson_interval():
    part = share(np.array([True] * 3 + [False] * 7))
    z, n, p = 1.959964, 10, 0.3
    for bound in (part.low, part.high):  # the ends solve (p - x)^2 = z^2 x (1 - x) / n
        assert (p - bound) ** 2 == pytest.approx(z**2 * bound * (1 - bound) / n)
    assert part.low < part.value < part.high


@pytest.mark.parametrize(
    ("source", "symbol"),
    [
        ("data/BTCUSDT_1h.parquet", "BTCUSDT"),
        ("bundled:BTCUSD_1h", "BTCUSD"),
        ("raw/BTCUSDT-1h-2025-01.csv", "BTCUSDT"),
        ("BTC_1hour.csv", "BTC_1hour"),
        ("../my btc.csv", "my_btc"),
        ("_1h.csv", "candles"),
    ],
)
def test_a_symbol_is_read_from_the_name(source, symbol):
    assert symbol_of(source, "1h") == symbol


def test_units_are_those_of_the_symbol():
    assert units("BTCUSDT") == ("BTC", "USDT")
    assert units("ETHBTC") == ("ETH", "BTC")
    assert units("mine") == ("base units", "quote currency")


def test_a_csv_of_four_hour_candles_is_forecast_alike(make_history, small, tmp_path):
    hours = make_history(60)
    candles = make_candles(hours.open_time[0] + 4 * (hours.open_time - hours.open_time[0]), hours.values, interval="4h")
    file, table = tmp_path / "X_4h.parquet", tmp_path / "X_4h.csv"
    write_candles(candles, file)
    lines = ["open_time,open,high,low,close,volume,amount"]
    lines += [
        ",".join([str(t), *(repr(float(v)) for v in row)])
        for t, row in zip(candles.open_time, candles.values, strict=True)
    ]
    table.write_text("\n".join(lines) + "\n")
    one, two = (
        predict(f, interval="4h", context=30, horizon=3, forecaster=small, output=tmp_path / f.suffix[1:])
        for f in (file, table)
    )
    np.testing.assert_array_equal(one.paths, two.paths)
    assert one.window.future_open_time(3)[0] - one.window.open_time[-1] == 4 * HOUR


@pytest.mark.parametrize("step", [1.0, -1.0, 0.0], ids=["rising", "falling", "flat"])
def test_candles_that_all_go_one_way_have_a_picture_too(small, tmp_path, step):
    closes = 4000 + step * np.arange(41)
    values = np.stack([closes[:-1], closes[:-1], closes[1:], closes[1:], np.ones(40), closes[1:]], axis=1)
    values[:, 1], values[:, 2] = values[:, [0, 3]].max(axis=1), values[:, [0, 3]].min(axis=1)
    file = tmp_path / "X_1h.parquet"
    write_candles(make_candles(HOUR * np.arange(40), values, interval="1h"), file)
    made = predict(file, context=40, horizon=3, forecaster=small, output=tmp_path / "out")
    assert (made.folder / "forecast.png").read_bytes().startswith(b"\x89PNG")


def invoke(*arguments: object):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def refused(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line.removeprefix("error: ")


def test_the_command_writes_the_forecast_and_sums_it_up(history, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(history, "--checkpoint", checkpoint, "--context", 40, "--horizon", 6, "--paths", 4)
    assert result.exit_code == 0, result.output
    folder = Path("predictions/BTCUSDT_1h_20190105T0000Z")
    assert sorted(path.name for path in folder.iterdir()) == ["candles.csv", "forecast.json", "forecast.png"]
    assert [path.name for path in Path("predictions").iterdir()] == [folder.name]
    assert (folder / "forecast.png").read_bytes().startswith(b"\x89PNG")
    assert "share of paths that rise" in result.stdout
    assert "clean: every candle" in result.stdout
    assert str(folder) in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--context", 97], "96 candles, a context of 97 needs as many; give more history or use --context 96"),
        (["--context", 1], "context 1: a window has at least 2 candles"),
        (["--context", 40, "--horizon", 1025], "horizon 1025: expected 1 to 1024"),
        (["--context", 40, "--horizon", 0], "horizon 0: expected 1 to 1024"),
        (["--context", 40, "--horizon", 512], "512 does not fit max_context 512"),
        (["--context", 40, "--interval", "15m"], "all open times are on the 1h grid, expected 15m candles"),
        (["--context", 10, "--interval", "4h"], "1h"),
        (["--context", 10, "--interval", "1y"], "interval '1y' is unknown"),
        (["--context", 40, "--top-p", 0], "option 'top_p': input should be greater than 0, got 0.0"),
        (["--context", 40, "--sampling", "best"], "option 'sampling': input should be 'independent' or 'systematic'"),
        (["--context", 40, "--device", "abacus"], "option 'device': "),
        (["--context", 40, "--horizon", 1000, "--paths", 100_000], "lower one"),
    ],
)
def test_bad_arguments_end_with_one_line_and_leave_nothing(
    history, checkpoint, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert message in refused(history, "--checkpoint", checkpoint, *arguments)
    assert not Path("predictions").exists()


def test_a_missing_checkpoint_or_file_is_refused(history, checkpoint, tmp_path):
    assert "no such folder" in refused(history, "--checkpoint", "./nowhere", "--context", 40)
    assert "absent.parquet" in refused(tmp_path / "absent.parquet", "--checkpoint", checkpoint)
    broken = tmp_path / "broken.csv"
    broken.write_text("not,a,candle\n1,2\n")
    assert "broken.csv" in refused(broken, "--checkpoint", checkpoint)
    assert "unknown extension '.txt'" in refused(tmp_path / "x.txt", "--checkpoint", checkpoint)


def test_a_gap_inside_the_newest_candles_is_named_and_a_smaller_context_avoids_it(make_history, small, tmp_path):
    file = tmp_path / "gap.parquet"
    write_candles(make_history(96, missing=[50, 51]), file)
    message = r"2 missing from 2019-01-03T02:00Z on, inside the newest 60; 44 contiguous ones follow: use --context 44"
    with pytest.raises(CandleError, match=message):
        predict(file, context=60, horizon=2, forecaster=small, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert predict(file, context=44, horizon=2, forecaster=small, output=tmp_path / "out").folder.is_dir()


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("channels", "value", "said"),
    [
        ([VOLUME, 5], 1e30, "candle at 2019-01-03T12:00Z: its volume of 1e+30 is too large to be scaled"),
        (slice(0, 4), 1e39, "candle at 2019-01-03T12:00Z: its open of 1e+39 is too large to be scaled"),
    ],
)
def test_a_candle_beyond_float32_is_named_instead_of_the_checkpoint(
    make_history, checkpoint, tmp_path, channels, value, said
):
    history = make_history(96)
    values = history.values.copy()
    values[60, channels] = value
    file = tmp_path / "X_1h.parquet"
    write_candles(make_candles(history.open_time, values, interval="1h"), file)
    arguments = [file, "--checkpoint", checkpoint, "--horizon", 2, "--paths", 2, "--output", tmp_path / "out"]
    line = refused(*arguments, "--context", 40)
    assert line.startswith(f"candles {file.name}: {said}")
    assert "correct it, or count in larger units" in line
    assert invoke(*arguments, "--context", 35).exit_code == 0


def test_an_earlier_forecast_is_replaced_and_anything_else_is_left_alone(history, small, tmp_path, made):
    shorter = predict(history, context=40, horizon=2, forecaster=small, output=made.folder)
    assert len((shorter.folder / "candles.csv").read_text().splitlines()) == 3
    (made.folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is not an earlier forecast"):
        predict(history, context=40, horizon=6, forecaster=small, output=made.folder)
    assert (made.folder / "notes.txt").read_text() == "mine"


def test_a_forecast_that_cannot_be_written_leaves_the_earlier_one_whole(history, small, tmp_path, made, monkeypatch):
    before = {path.name: path.read_bytes() for path in made.folder.iterdir()}

    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("btcbt.workflows.predict.draw_prediction", full)
    line = refused(history, "--checkpoint", small.checkpoint, "--context", 40, "--horizon", 2, "--output", made.folder)
    assert "No space left on device" in line
    assert {path.name: path.read_bytes() for path in made.folder.iterdir()} == before
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_context_is_what_the_checkpoint_was_fitted_with(checkpoint, tmp_path):
    assert fitted_context("kronos-nano") == 240
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    assert fitted_context(copy) is None
    (copy / "recipe.json").write_text('{"context": [10, 30]}')
    assert fitted_context(copy) == 30
    assert fitted_context(copy / "model") == 30
    (copy / "recipe.json").write_text('{"context": ["ten", 30]}')
    assert fitted_context(copy) is None
