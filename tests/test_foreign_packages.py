"""A package of the user's own with a name of this program's is named, in place of an error from deep inside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a folder before this program's on the path."""
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(params=["results/__init__.py", "results.py", "search_spaces/__init__.py"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A package or module of the user's own."""
    file = tmp_path / request.param
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine = 1\n")
    return file


@pytest.mark.parametrize("arguments", [["--help"], ["status", "nowhere"], ["run", "quickstart"]])
def test_the_command_names_the_other_package_in_one_line(foreign: Path, arguments: list[str]) -> None:
    ended = run(foreign.parent if foreign.name == "results.py" else foreign.parents[1], "-m", "study.cli", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "") and ended.stderr.count("\n") == 1
    assert str(foreign) in ended.stderr and str(ROOT) in ended.stderr


@pytest.mark.parametrize("name", ["replay", "exact_front", "Trace"])
def test_a_notebook_is_told_too(foreign: Path, name: str) -> None:
    folder = foreign.parent if foreign.name == "results.py" else foreign.parents[1]
    ended = run(folder, "-c", f"from study import {name}")
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode and last.startswith("ImportError") and str(foreign) in last


def test_a_folder_without_code_hides_nothing(tmp_path: Path) -> None:
    """Such as the ``results`` that a notebook writes to."""
    (tmp_path / "results").mkdir()
    assert run(tmp_path, "-c", "from study import replay").returncode == 0
    assert run(tmp_path, "-m", "study.cli", "--version").returncode == 0
