"""The wheel in empty environments: oldest and newest versions of its dependencies, on every Python that is found.

``make matrix`` builds the wheel, installs it, and does from another folder what a newcomer does. Newest versions are
those of constraints.txt. Oldest ones are the lower bounds of pyproject.toml, tested on the oldest Python only, since
most of them have no build for a newer one. Nothing is fetched but packages; what was not tested is said.

A build of torch that brings CUDA takes several GB. It is left out, with what needs it, unless ``--cuda`` is given.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
"""The first is the oldest that pyproject.toml allows."""
SMOKE = (
    "btcbt --version",
    "btcbt schema",
    "btcbt run --help",
    "btcbt init .",
    "btcbt run experiment.yaml --dry-run",
    "btcbt run experiment.yaml",
    "btcbt report runs/first",
    "btcbt store verify",
    "btcbt check runs/first --baseline runs/first",
)
WITH_TORCH = ("python -c 'import btcbt.hf'",)
SHORTER = ("end: 2019-06-15", "end: 2019-06-02"), ("context: 168", "context: 60"), ("n_paths: 100", "n_paths: 8")
KRONOS = "forecasters:\n  kronos: {kind: kronos, n_paths: 2}\n"


def main() -> int:
    """Test each pair of a Python and a set of versions; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=PYTHONS, metavar="VERSION", help="which Pythons")
    parser.add_argument("--versions", nargs="+", default=("oldest", "newest"), choices=("oldest", "newest"))
    parser.add_argument("--cuda", action="store_true", help="also install a build of torch with CUDA")
    chosen = parser.parse_args()
    results: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="btcbt-matrix-") as name:
        wheel = build_wheel(Path(name))
        for version in chosen.python:
            python = find_python(version)
            for versions in chosen.versions:
                if versions == "oldest" and version != PYTHONS[0]:
                    continue
                title = f"Python {version}, {versions} versions"
                print(f"{title} ...", flush=True)
                result = "not tested: this Python was not found"
                if python:
                    result = test(python, versions, wheel, Path(name) / "environment", cuda=chosen.cuda)
                results.append((title, result))
    print("\n".join(f"{title:32}{result}" for title, result in results))
    return int(any(result.startswith("FAILED") for _, result in results))


def build_wheel(folder: Path) -> Path:
    """The wheel of this working tree."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def find_python(version: str) -> str | None:
    """The interpreter of a version: this one, one on the path, of pyenv, or of uv."""
    for candidate in candidates(version):
        asked = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
        except OSError:
            continue
        if done.returncode == 0 and done.stdout.strip() == version:  # pyenv's shims exist for versions that are off
            return candidate
    return None


def candidates(version: str) -> Iterator[str]:
    """Where an interpreter of a version may be."""
    yield sys.executable
    if found := shutil.which(f"python{version}"):
        yield found
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True))
    if uv := shutil.which("uv"):
        asked = [uv, "python", "find", "--no-python-downloads", version]
        yield subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or uv


def test(python: str, versions: str, wheel: Path, folder: Path, *, cuda: bool) -> str:
    """Install into an empty environment, run the smoke test, remove the environment."""
    try:
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        torch = install(folder / "bin" / "python", versions, wheel, cuda=cuda)
        for command in (*SMOKE, *(WITH_TORCH if torch else ())):
            smoke(command, folder, torch=torch)
    except subprocess.CalledProcessError as error:
        told = (error.stderr or "").strip().splitlines()[-30:]
        print(*told, sep="\n", file=sys.stderr)
        return f"FAILED: {shlex.join(map(str, error.cmd))}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return "passed" if torch else "passed, but for torch: it has no build without CUDA here (--cuda installs it)"


def install(python: Path, versions: str, wheel: Path, *, cuda: bool) -> bool:
    """Install the wheel and what it needs; whether torch is among that."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    constraints = ROOT / "constraints.txt"
    if versions == "oldest":
        constraints = python.parents[1] / "minima.txt"
        constraints.write_text("\n".join(minima(project["dependencies"])), encoding="utf-8")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", str(constraints)]
    torch = cuda or not brings_cuda([*pip, "--dry-run", "--report", "-", "torch"])
    needed = [text for text in project["dependencies"] if torch or not text.startswith("torch>")]
    run([*pip, *needed])
    run([*pip, "--no-deps", str(wheel)])
    return torch


def minima(requirements: list[str]) -> Iterator[str]:
    """``name>=1.2`` as ``name==1.2``, extras left out."""
    for text in requirements:
        found = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", text)
        if found is None:
            raise SystemExit(f"pyproject.toml: requirement '{text}': a lower bound alone, name>=version, is expected")
        yield f"{found[1]}=={found[2]}"


def brings_cuda(command: list[str]) -> bool:
    """Whether pip would install packages of NVIDIA's."""
    report = json.loads(run(command))
    return any(item["metadata"]["name"].startswith("nvidia") for item in report["install"])


def smoke(command: str, folder: Path, *, torch: bool) -> None:
    """Run one command in a folder of its own, away from the checkout."""
    here = folder / "elsewhere"
    here.mkdir(exist_ok=True)
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    program, *arguments = shlex.split(command)
    run([str(folder / "bin" / program), *arguments], cwd=here, env=environment)
    if command.startswith("btcbt init"):
        experiment = here / "experiment.yaml"
        text = experiment.read_text(encoding="utf-8")
        for old, new in (*SHORTER, *((("forecasters:\n", KRONOS),) if torch else ())):
            if old not in text:
                raise SystemExit(f"btcbt init no longer writes '{old.strip()}'; change tests/matrix.py")
            text = text.replace(old, new)
        experiment.write_text(text, encoding="utf-8")


def run(command: list[str], **options: object) -> str:
    """What a command prints; an error if it fails."""
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout  # type: ignore[call-overload]


if __name__ == "__main__":
    raise SystemExit(main())
