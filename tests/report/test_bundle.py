"""The script that draws the charts: kept in the cache folder of the user, and taken from nobody else."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from study.report import bundle

NAME = "vega-1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache folder that holds a script."""
    folder, content = tmp_path / "cache", b"script"
    folder.mkdir(mode=0o755)
    file = folder / f"{NAME}-{hashlib.sha256(content).hexdigest()[:16]}.js"
    file.write_bytes(content)
    file.chmod(0o644)
    return folder


def test_the_script_of_an_earlier_report_is_taken(folder: Path) -> None:
    assert bundle._kept(folder, NAME) == "script"
    next(folder.iterdir()).write_bytes(b"other")
    assert bundle._kept(folder, NAME) is None


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_others_may_write_is_not_trusted(folder: Path, what: str) -> None:
    place = folder if what == "folder" else next(folder.iterdir())
    place.chmod(0o777)
    assert bundle._kept(folder, NAME) is None


def test_what_belongs_to_somebody_else_is_not_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    somebody = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody)
    assert bundle._kept(folder, NAME) is None


def test_a_link_is_not_trusted(folder: Path, tmp_path: Path) -> None:
    file = next(folder.iterdir())
    file.rename(tmp_path / file.name)
    file.symlink_to(tmp_path / file.name)
    assert bundle._kept(folder, NAME) is None
