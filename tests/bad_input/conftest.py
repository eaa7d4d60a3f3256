"""A trained network, a finished run folder, and a workplace for each case."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.corpus import TRAIN, Workplace
from support.shelf import finish_study

from study.cli.main import main


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone, the same with exit heads, and the folder of a finished study, all made without Ray."""
    shelf = tmp_path_factory.mktemp("shelf")
    models = shelf / "models"
    assert main([*TRAIN.split(), "--data", "digits", "--limit", "240", "--output", str(models / "original")]) == 0
    heads = f"train --mode exits --head linear --epochs 1 --device cpu --precision fp32 --output {models / 'exits'}"
    assert main([*heads.split(), "--pretrained", str(models / "original")]) == 0
    finish_study(shelf / "run")
    return shelf


@pytest.fixture
def workplace(shelf: Path, tmp_path: Path) -> Workplace:
    """An empty folder beside the shelf."""
    return Workplace(tmp_path, shelf)
