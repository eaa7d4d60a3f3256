"""A finished study and exports of its points, shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.cli.main import main


@pytest.fixture(scope="session")
def exported(finished_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recommended point of a finished study, as a folder; tests must not change it."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    assert main(["export", str(finished_study), "--output", str(folder), "--format", "torch"]) == 0
    return folder
