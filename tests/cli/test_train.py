"""`train`: the same command again."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cli import TRAIN, result_of


def test_the_same_training_command_again_has_nothing_left(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (models / "original").rglob("*")}
    command = f"{TRAIN} --mode original --epochs 3 --output {models / 'original'}"
    assert result_of(command, capsys)["best_epoch"] <= 3
    assert before == {path: path.stat().st_mtime_ns for path in (models / "original").rglob("*")}
