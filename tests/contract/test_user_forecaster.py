"""What built-in forecasters have, one of the user's own has, too; and what is said of one that misbehaves."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from btcbt.audit import audit_experiment
from btcbt.cli.main import app
from btcbt.config import RunConfig
from btcbt.errors import ForecasterError
from btcbt.walkforward.runner import run

SOURCE = Path(__file__).with_name("user_forecaster.py")

BADLY = """
import numpy as np
from btcbt.forecasters import Forecaster, Params, Postprocessor
from btcbt.records import DataRange, ForecastBatch

class Base(Forecaster):
    def paths(self, windows):
        last = self.history(windows)[:, -1, 3]
        shape = (len(windows), self.n_paths, self.horizon, 6)
        return np.broadcast_to(last[:, None, None, None], shape).astype(np.float32)
    def origins(self, windows):
        return np.array([window.origin for window in windows])
    def forecast(self, windows):
        return ForecastBatch(self.origins(windows), self.paths(windows))

class Nothing(Forecaster):
    pass

class NotOne:
    pass

class Returns(Base):
    def forecast(self, windows):
        return self.paths(windows)

class OneStepShort(Base):
    def forecast(self, windows):
        return ForecastBatch(self.origins(windows), self.paths(windows)[:, :, 1:])

class Double(Base):
    def forecast(self, windows):
        return ForecastBatch(self.origins(windows), self.paths(windows).astype(np.float64))

class Nan(Base):
    def forecast(self, windows):
        return self.batch(windows, self.paths(windows) * np.nan)

class TooLarge(Base):
    def forecast(self, windows):
        return self.batch(windows, self.paths(windows) * 1e300)

class Negative(Base):
    def forecast(self, windows):
        return self.batch(windows, -self.paths(windows))

class ClosesBelowZero(Base):
    def forecast(self, windows):
        return self.batch(windows, -self.paths(windows)[..., 3])

class Earlier(Base):
    def forecast(self, windows):
        return ForecastBatch(self.origins(windows) - 3_600_000, self.paths(windows))

class Fails(Base):
    def forecast(self, windows):
        return 1 / 0

class Unbuildable(Base):
    def __init__(self, params, **shape):
        raise RuntimeError("no luck")

class Forgets(Base):
    def __init__(self, params, **shape):
        self.params = params

class OddIdentity(Base):
    def identity(self):
        return {"weights": np.zeros(3)}

class OddRanges(Base):
    def data_ranges(self):
        return [("2019-01-01", "2019-02-01")]

class NoFile(Base):
    class Params(Params):
        file: str

class Declared(Base):
    def data_ranges(self):
        return (DataRange("fit", 0, 1_559_433_600_000),)

class Halved(Postprocessor):
    class Params(Params):
        by: float = 0.5

    def follow(self, windows, batches):
        windows = iter(windows)
        for batch in batches:
            last = np.array([next(windows).last_close for _ in range(len(batch))])[:, None, None, None]
            paths = batch.paths.astype(float)
            paths[..., :4] = last + self.params.by * (paths[..., :4] - last)
            yield ForecastBatch(batch.origins, paths.astype(np.float32), batch.provenance)

class Stops(Halved):
    def follow(self, windows, batches):
        return iter(())
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory of a user, with their files; no trace in the import system afterwards."""
    shutil.copy(SOURCE, tmp_path / "user_models.py")
    (tmp_path / "badly_made.py").write_text(BADLY)
    (tmp_path / "broken_models.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


def config(forecasters: dict[str, Any], **changes: Any) -> RunConfig:
    tree = {
        "name": "own",
        "candles": {"path": "bundled:BTCUSD_1h"},
        "windows": {"context": 60, "horizon": 4, "start": "2019-06-01", "end": "2019-06-04"},
        "forecasters": forecasters,
        "strategies": {"threshold": {"use": "threshold", "params": {"entry_bps": 5.0}}},
        "store": {"root": "runs", "shard_size": 20},
    }
    return RunConfig.model_validate_json(json.dumps(tree | changes))


MINE = {"use": "user_models:RecentReturns", "params": {"recent": 20}, "n_paths": 6}


def test_a_users_forecaster_has_what_built_in_ones_have(here: Path) -> None:
    done = run(config({"mine": MINE, "calm": {"kind": "calibrated", "base": "mine"}}, placebos=4))
    entry = done.manifest["forecasters"]["mine"]
    assert entry["kind"] == "user"
    assert entry["identity"]["params"] == {"recent": 20}
    assert len(entry["identity"]["source_sha256"]) == 64
    assert entry["labels"] == {"clean": 72}
    assert (entry["computed"], entry["reused"]) == (72, 0)
    assert done.forecasts("mine").paths().shape == (72, 6, 4, 6)
    assert (done.forecasts("calm").paths() != done.forecasts("mine").paths()).any()
    assert np.isfinite(done.metrics["forecast.mine.crps_bps.close.h4"])
    assert 0 < done.metrics["placebo.threshold@mine.p_value"] <= 1
    again = run(config({"mine": MINE, "calm": {"kind": "calibrated", "base": "mine"}}, placebos=4), force=True)
    assert [again.manifest["forecasters"][name]["computed"] for name in ("mine", "calm")] == [0, 0]


def test_the_path_of_a_file_does_as_well_and_finds_the_same_forecasts(here: Path) -> None:
    first = run(config({"mine": MINE}))
    for use in ("user_models.py:RecentReturns", f"{here}/user_models.py:RecentReturns"):
        done = run(config({"mine": MINE | {"use": use}}))
        assert done.manifest["forecasters"]["mine"]["reused"] == 72
    assert first.manifest["forecasters"]["mine"]["computed"] == 72


@pytest.mark.parametrize("use", ["user_models:RecentReturns", "user_models.py:RecentReturns"])
def test_worker_processes_sample_the_same_paths(here: Path, use: str) -> None:
    forecasters = {"mine": MINE | {"use": use}}
    alone = run(config(forecasters)).forecasts("mine").paths()
    executor = {"kind": "joblib", "workers": 2}
    shared = run(config(forecasters, executor=executor, store={"root": "other", "shard_size": 20}))
    assert shared.manifest["forecasters"]["mine"]["computed"] == 72
    assert np.array_equal(shared.forecasts("mine").paths(), alone)


def test_an_edited_source_is_forecast_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "edited_models.py").write_text(SOURCE.read_text())
    forecasters = {"mine": MINE | {"use": "edited_models:RecentReturns"}}
    run(config(forecasters))
    (here / "edited_models.py").write_text(SOURCE.read_text() + "\n# another comment\n")
    monkeypatch.delitem(sys.modules, "edited_models")
    assert run(config(forecasters)).manifest["forecasters"]["mine"]["computed"] == 72


def test_what_it_declares_is_what_its_origins_are_labelled_by(here: Path) -> None:
    done = run(config({"a": {"use": "badly_made:Base"}, "b": {"use": "badly_made:Declared"}}))
    assert done.manifest["forecasters"]["a"]["labels"] == {"unknown": 72}
    assert done.manifest["forecasters"]["b"]["labels"] == {"seen": 24, "clean": 48}


def test_a_users_forecaster_may_be_made_from_the_forecasts_of_another(here: Path) -> None:
    halved = {"use": "badly_made:Halved", "base": "mine", "params": {"by": 0.25}}
    done = run(config({"mine": MINE, "halved": halved}))
    whole, part = (done.forecasts(name).paths()[..., 3].astype(float) for name in ("mine", "halved"))
    ratio = part.std(axis=1).mean() / whole.std(axis=1).mean()
    assert ratio == pytest.approx(0.25, rel=1e-3)
    assert done.manifest["forecasters"]["halved"]["labels"] == {"clean": 72}
    again = run(config({"mine": MINE, "halved": halved}), force=True)
    assert again.manifest["forecasters"]["halved"]["computed"] == 0


def test_the_audit_passes_it_and_what_is_made_from_it(here: Path) -> None:
    forecasters = {
        "mine": MINE,
        "calm": {"kind": "calibrated", "base": "mine"},
        "halved": {"use": "badly_made:Halved", "base": "mine"},
    }
    report = audit_experiment(config(forecasters), sample=2)
    assert report.clean, report.findings[:3]
    assert report.comparisons["forecast"] > 0
    assert report.comparisons["calibration"] > 0


def test_predict_takes_it_by_class_by_path_and_from_an_experiment(here: Path) -> None:
    experiment = config({"mine": MINE})
    tree = json.loads(experiment.model_dump_json())
    (here / "own.yaml").write_text(json.dumps(tree))
    paths = []
    for number, text in enumerate(("user_models:RecentReturns", "user_models.py:RecentReturns", "own.yaml:mine")):
        arguments = ["predict", "bundled:BTCUSD_1h", "--context", "60", "--horizon", "4", "--paths", "6"]
        result = CliRunner().invoke(app, [*arguments, "--forecaster", text, "--output", f"out{number}"])
        assert result.exit_code == 0, result.output
        summary = json.loads((here / f"out{number}" / "forecast.json").read_text())
        assert summary["contamination"]["label"] == "clean"
        assert summary["forecaster"]["class"] == "RecentReturns"
        paths.append(summary["quantiles"])
    assert paths[0] == paths[1] != paths[2]  # the experiment has another parameter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oracle", "forecaster 'oracle': unknown kind 'oracle'; the kinds are kronos"),
        ("calibrated", "EXPERIMENT.yaml:NAME"),
        ("own.yaml:nobody", "the forecasters of own.yaml are mine, calm"),
        ("own.yaml:calm", "is made from the earlier forecasts of another, which takes a walk: run the experiment"),
        ("badly_made:Nan", "forecaster 'badly_made:Nan' at 2019-10-01T00:00Z: sampled open nan in path 0, step 1"),
    ],
)
def test_predict_refuses_what_makes_no_single_forecast(here: Path, text: str, expected: str) -> None:
    tree = config({"mine": MINE, "calm": {"kind": "calibrated", "base": "mine"}}).model_dump_json()
    (here / "own.yaml").write_text(tree)
    arguments = ["predict", "bundled:BTCUSD_1h", "--context", "60", "--horizon", "4", "--forecaster", text]
    result = CliRunner().invoke(app, [*arguments, "--output", "out"])
    assert result.exit_code == 2, result.output
    assert expected in result.stderr.splitlines()[-1]
    assert not (here / "out").exists()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Nothing", "'badly_made:Nothing': 'Nothing' lacks forecast; define it"),
        ("NotOne", "expected a subclass of btcbt.forecasters.base.Forecaster; derive it from that"),
        ("Mine", "badly_made.py has no class 'Mine'; its forecasters are Base, ClosesBelowZero, "),
        ("Returns", "at 2019-06-01T00:00Z: returned array([[[["),
        ("OneStepShort", "at 2019-06-01T00:00Z: returned paths (1, 6, 3, 6); expected (1, 6, 4, 6), that is (origins"),
        ("Double", "at 2019-06-01T00:00Z: returned paths of float64; expected float32; return self.batch(windows"),
        ("Nan", "at 2019-06-01T00:00Z: sampled open nan in path 0, step 1; expected finite values; check"),
        ("TooLarge", "at 2019-06-01T00:00Z: sampled open inf in path 0, step 1; expected finite values"),
        ("Negative", "at 2019-06-01T00:00Z: sampled open -8"),
        ("ClosesBelowZero", "at 2019-06-01T00:00Z: sampled open nan"),
        ("Earlier", "at 2019-06-01T00:00Z: returned a forecast for origin 2019-05-31T23:00Z; expected the origins"),
        ("Fails", "at 2019-06-01T00:00Z: raised ZeroDivisionError: division by zero ("),
        ("Unbuildable", "cannot be built: RuntimeError: no luck ("),
        ("Forgets", "has no context, horizon, n_paths, seed after it was built; call super().__init__(params"),
        ("OddIdentity", "which is not a mapping of JSON values"),
        ("OddRanges", "expected a sequence of btcbt.records.DataRange"),
        ("NoFile", "'badly_made:NoFile': parameter 'file' is missing; add it"),
        ("Halved", "it needs the forecasts of another; name it by 'base'"),
    ],
)
def test_a_forecaster_that_misbehaves_is_refused_in_one_line_and_nothing_is_written(
    here: Path, name: str, expected: str
) -> None:
    with pytest.raises(ForecasterError) as caught:
        run(config({"mine": {"use": f"badly_made:{name}", "n_paths": 6}}))
    message = str(caught.value)
    assert expected in message
    assert message.startswith(("forecaster 'mine' at ", f"forecaster 'badly_made:{name}': "))
    assert "\n" not in message
    assert caught.value.exit_code == 2
    assert files(here / "runs") == []


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"use": "user_models:RecentReturns", "base": "walk"}, "makes its own forecasts and has no base"),
        (
            {"use": "user_models:RecentReturns", "params": {"recnt": 3}},
            "unknown parameter 'recnt' (did you mean 'recent'?)",
        ),
        ({"use": "user_models:RecentReturns", "params": {"recent": 1}}, "greater than or equal to 2, got 1"),
        ({"use": "badly_made:Halved", "base": "walk", "params": {"by": "half"}}, "parameter 'by': input should be"),
        ({"use": "broken_models:Mine"}, "cannot be imported: ModuleNotFoundError: No module named 'no_such_package"),
        ({"use": "no_such_models:Mine"}, "there is no module 'no_such_models' (nor "),
        ({"use": "mine.py:Mine"}, "there is no file "),
        (
            {"use": "garch"},
            "a forecaster of your own is a file and its class, such as 'my_forecasters.py:Mine'",
        ),
    ],
)
def test_a_wrong_use_is_refused_before_the_first_forecast(here: Path, entry: dict[str, Any], expected: str) -> None:
    with pytest.raises(ForecasterError) as caught:
        run(config({"walk": {"kind": "random_walk", "n_paths": 4}, "mine": entry}))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert files(here / "runs") == []


def test_a_walk_that_ends_early_is_refused(here: Path) -> None:
    stops = {"use": "badly_made:Stops", "base": "walk"}
    with pytest.raises(ForecasterError, match=r"'stops' at 2019-06-01T00:00Z: follow.. yielded nothing; expected"):
        run(config({"walk": {"kind": "random_walk", "n_paths": 4}, "stops": stops}))
    assert not (here / "runs" / "own").exists()


def test_a_forecaster_has_a_kind_or_a_use_and_not_both(here: Path) -> None:
    for entry in ({"kind": "drift", "use": "a:B"}, {"kind": "user", "use": "a:B"}, {"n_paths": 3}):
        with pytest.raises(ValueError, match=r"give either 'kind', one of kronos, .* or 'use', a class of your own"):
            config({"mine": entry})
