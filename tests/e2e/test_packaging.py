"""What an installation holds and needs: the wheel, the extras, and what a run imports."""

from __future__ import annotations

import ast
import email
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from btcbt.config import ExecutorConfig
from btcbt.errors import BtcbtError, ConfigError
from btcbt.execution.clusters import forecast_shards_on
from btcbt.models.kronos.training.processes import ProcessGroup

Write = Callable[..., Path]

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {"dask": {"distributed"}, "mlflow": {"mlflow-skinny"}, "ray": {"ray"}, "train": {"accelerate", "peft"}}
UNPINNED = {"mlflow-skinny"}
"""Refuses the version of importlib-metadata that the tested versions of others bring."""
NOT_IN_A_RUN = {"transformers", "mlflow", "distributed", "dask", "ray", "accelerate", "peft", "moto", "pytest", "mypy"}
MINE = """\
from strategies import SIZE
from btcbt.strategies import Strategy


class Mine(Strategy):
    def decide(self, forecast, holding):
        return SIZE if forecast.returns().mean() > 0 else 0.0
"""


def names(requirements: list[str]) -> set[str]:
    """Distribution names of some requirements, normalised."""
    return {re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", text)[0]).lower() for text in requirements}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this working tree."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: pip install 'btcbt[dev]'")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the wheel is installed, without what it depends on."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    return folder


def test_the_wheel_installs_no_top_level_package_but_btcbt(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        top = {name.partition("/")[0] for name in archive.namelist()}
    assert top == {"btcbt", f"btcbt-{PROJECT['version']}.dist-info"}


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("btcbt/")}
        entries = archive.read(f"btcbt-{PROJECT['version']}.dist-info/entry_points.txt").decode()
    files = (file for file in (ROOT / "btcbt").rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    assert packed == {file.relative_to(ROOT).as_posix() for file in files}
    assert packed >= {
        "btcbt/py.typed",
        "btcbt/strategies/threshold.py",
        "btcbt/candles/sample/BTCUSD_1h.parquet",
        "btcbt/models/kronos/nano/model/model.safetensors",
        "btcbt/models/kronos/nano/tokenizer/model.safetensors",
    }
    assert "btcbt = btcbt.cli.main:main" in entries


def test_the_wheel_requires_no_test_cluster_or_training_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_bytes(archive.read(f"btcbt-{PROJECT['version']}.dist-info/METADATA"))
    required = metadata.get_all("Requires-Dist") or []
    always = names([line for line in required if "extra ==" not in line])
    assert always == names(PROJECT["dependencies"])
    assert not always & (NOT_IN_A_RUN - {"transformers"})
    assert set(metadata.get_all("Provides-Extra") or []) == {*EXTRAS, "boost", "chronos", "fracast", "dev"}
    assert metadata["Author"] == "btcbt developers"


def test_the_module_and_the_script_run_the_same_code_beside_a_strategies_package(
    site: Path, write: Write, tmp_path: Path
) -> None:
    """A user's own package `strategies` neither hides the built-in ones nor is hidden by them."""
    here = tmp_path / "elsewhere"
    (here / "strategies").mkdir(parents=True)
    (here / "strategies" / "__init__.py").write_text("SIZE = 0.5\n")
    (here / "strategies" / "mine.py").write_text(MINE)
    mine = "  momentum:\n    use: strategies.mine:Mine\n"
    file = write(
        ("  momentum:\n    use: momentum\n    params: {lookback: 24}\n", mine), ("end: 2019-06-04", "end: 2019-06-02")
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def call(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    assert call("-c", "import btcbt; print(btcbt.__file__)").strip() == str(site / "btcbt" / "__init__.py")
    shown, results = [], []
    for start in (("-m", "btcbt"), (str(site / "bin" / "btcbt"),)):
        shown.append(call(*start, "run", str(file)))
        (made,) = [path for path in (tmp_path / "runs" / "small").iterdir() if not path.is_symlink()]
        results.append((made.name, *((made / name).read_bytes() for name in ("targets.parquet", "equity.parquet"))))
        shutil.rmtree(tmp_path / "runs")
    assert results[0] == results[1]
    assert "momentum" in shown[0]
    assert shown[0].splitlines()[:5] == shown[1].splitlines()[:5]


def test_a_run_imports_neither_transformers_nor_an_extra(write: Write) -> None:
    file = write(
        ("{kind: ewma_volatility, n_paths: 8}", "{kind: kronos, n_paths: 2}"), ("end: 2019-06-04", "end: 2019-06-02")
    )
    script = f"import sys, btcbt; btcbt.run({str(file)!r}); print(*sorted({NOT_IN_A_RUN!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def third_party_imports() -> Iterator[tuple[str, str, bool]]:
    """File, top-level name, and whether it is imported with the module, of every import of another project."""
    for file in sorted((ROOT / "btcbt").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                found = [node.module]
            for name in found:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names and top != "btcbt":
                    yield file.relative_to(ROOT).as_posix(), top, node.col_offset == 0


def test_what_the_package_imports_is_declared_and_extras_only_where_they_are_used() -> None:
    always = names(PROJECT["dependencies"])
    optional = set().union(*EXTRAS.values())
    comes_with = {
        "mlflow": "mlflow-skinny",
        "ruamel": "ruamel-yaml",
        "huggingface_hub": "huggingface-hub",
        "pydantic_core": "pydantic",
    }
    for file, name, at_import in third_party_imports():
        distribution = comes_with.get(name, name)
        assert distribution in always or (distribution in optional and not at_import), f"{file} imports {name}"


def test_the_extras_are_the_ones_that_messages_name() -> None:
    extras = PROJECT["optional-dependencies"]
    assert {extra: names(extras[extra]) for extra in EXTRAS} == EXTRAS
    assert extras["dev"][0] == "btcbt[chronos,dask,ray,train]"


def start_a_cluster(kind: str) -> None:
    next(forecast_shards_on(ExecutorConfig(kind=kind), [], key="", build=lambda: pytest.fail("built")))


@pytest.mark.parametrize(
    ("module", "extra", "need"),
    [
        ("distributed", "dask", lambda: start_a_cluster("dask")),
        ("ray", "ray", lambda: start_a_cluster("ray")),
        ("accelerate", "train", lambda: ProcessGroup("cpu")),
    ],
)
def test_where_a_package_is_missing_one_line_names_the_extra(
    module: str, extra: str, need: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=rf"{module}.*pip install 'btcbt\[{extra}\]'") as caught:
        need()
    assert isinstance(caught.value, BtcbtError)
    assert "\n" not in str(caught.value)


def test_every_requirement_has_an_exact_version_in_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert lines == sorted(lines, key=str.lower)
    every = [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
    assert names([*PROJECT["dependencies"], *every]) - {"btcbt"} - UNPINNED <= names(lines)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(("target", "extra"), [("install", False), ("run", False), ("test", True), ("proof", True)])
def test_make_installs_the_test_tools_for_targets_that_need_them(target: str, extra: bool, tmp_path: Path) -> None:
    command = ["make", "--dry-run", f"VENV={tmp_path / 'venv'}", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--editable ." in done.stdout
    assert ('".[dev]"' in done.stdout) == extra
