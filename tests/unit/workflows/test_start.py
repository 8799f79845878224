"""What ``btcbt init`` writes runs as it is, and editors can check every shipped file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from btcbt.cli.main import app
from btcbt.config.yaml import plain, read_yaml
from btcbt.errors import ConfigError
from btcbt.workflows.init import write_start
from btcbt.workflows.schema import SCHEMAS, json_schema

jsonschema = pytest.importorskip("jsonschema")
EXPERIMENTS = Path(__file__).parents[3] / "experiments"
SHIPPED = sorted(EXPERIMENTS.rglob("*.yaml"))


def test_what_init_writes_runs_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(app, ["init", "study"])
    assert made.exit_code == 0, made.output
    monkeypatch.chdir("study")
    done = CliRunner().invoke(app, ["run", "experiment.yaml", "--quiet", "--set", "windows.end=2019-06-04"])
    assert done.exit_code == 0, done.output
    assert "\nmine " in done.stdout
    cells = json.loads(Path("results.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    shown = subprocess.run(
        [sys.executable, "-c", f"import matplotlib; matplotlib.use('Agg')\n{code}\nassert len(crps) == 4"],
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr


def test_the_notebook_is_valid(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    write_start(tmp_path)
    nbformat.validate(nbformat.read(tmp_path / "results.ipynb", as_version=4))


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "my_strategy.py").write_text("mine")
    with pytest.raises(ConfigError, match=r"my_strategy\.py: is there already; nothing was written"):
        write_start(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["my_strategy.py"]
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_start(tmp_path / "file/below")


@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_schemas_beside_the_experiments_are_those_of_the_models(kind: str) -> None:
    done = CliRunner().invoke(app, ["schema", kind])
    assert done.exit_code == 0
    assert (EXPERIMENTS / "schemas" / f"{kind}.json").read_text() == done.stdout
    jsonschema.Draft202012Validator.check_schema(json_schema(kind))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_file_names_its_schema_and_keeps_to_it(file: Path) -> None:
    first = file.read_text().partition("\n")[0]
    mark = "# yaml-language-server: $schema="
    assert first.startswith(mark)
    schema = json.loads((file.parent / first.removeprefix(mark)).read_text())
    read = json.loads(json.dumps(plain(read_yaml(file)), default=str))
    jsonschema.validate(read, schema)
    with pytest.raises(jsonschema.ValidationError, match="'naem' was unexpected"):
        jsonschema.validate({**read, "naem": "x"}, schema)


def test_an_editor_sees_a_wrong_forecaster() -> None:
    tree = YAML(typ="safe").load((EXPERIMENTS / "quickstart.yaml").read_text())
    tree["forecasters"]["random_walk"]["n_path"] = 3
    tree = json.loads(json.dumps(tree, default=str))
    assert not jsonschema.Draft202012Validator(json_schema("experiment")).is_valid(tree)


def test_an_unknown_schema_is_refused_in_one_line() -> None:
    done = CliRunner().invoke(app, ["schema", "expriment"])
    assert done.exit_code == 2
    assert "(did you mean 'experiment'?)" in done.stderr
