"""The trained networks that the tests of several commands share."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cli import TRAIN

from study.cli.main import main


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained backbone and its exit heads, made by the published program's first two commands in our form."""
    folder = tmp_path_factory.mktemp("models")
    assert main([*TRAIN.split(), "--mode", "original", "--epochs", "3", "--output", str(folder / "original")]) == 0
    exits = f"train --mode exits --head linear --epochs 2 --device cpu --pretrained {folder / 'original'}"
    assert main([*exits.split(), "--output", str(folder / "exits")]) == 0
    return folder
