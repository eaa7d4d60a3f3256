"""The README's two installations, one after the other, in one environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import study

ROOT = Path(study.__file__).parents[1]
REPLAY = """
import numpy as np
from study import Costs, Predictive, Trace, replay
logits = np.random.default_rng(0).normal(size=(8, 5, 3)).astype(np.float32)
replay(Trace(logits=logits, labels=np.zeros(8, dtype=np.int64), thresholds=np.ones(4)), Predictive(beta=1.0))
print(__import__("study").__file__)
"""
"""Calls compiled code, which is then kept for the next process."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the program's source, in which a build may leave its files."""
    copy = tmp_path / "source"
    for name in ("study", "search_spaces", "results"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "reference"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of a new environment that has the dependencies, but not the program."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A path that a .pth file names is searched, but its own .pth files, as of an editable installation, are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "python"


def install(python: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    subprocess.run([*command, "--no-build-isolation", *arguments], check=True)


def imported_from(python: Path, folder: Path) -> Path:
    """Run compiled code in an empty folder; returns the file of the package that ran."""
    done = subprocess.run([python, "-c", REPLAY], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def test_an_editable_installation_after_a_regular_one_runs_the_clone(
    source: Path, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    install(python, str(source))
    regular = imported_from(python, elsewhere)
    assert regular.is_relative_to(tmp_path / "environment")
    assert not list(regular.parent.rglob("*.nb[ci]"))
    assert list((tmp_path / "cache").rglob("*.nbi"))

    install(python, "-e", str(source))
    # Even where something stays behind of the regular installation.
    (regular.parent / "__pycache__").mkdir(parents=True, exist_ok=True)
    assert imported_from(python, elsewhere).is_relative_to(source)
