"""A finished run folder, made in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from results.parts import read_table
from search_spaces.spec import validate_space
from study.run.run import run_study
from support.studies import run_context

STUDY: dict[str, Any] = {
    "name": "small",
    "data": {"name": "digits", "limit": 240, "test_limit": 60, "calibration": 0.2, "validation": 0.2},
    "backbones": {"epochs": 6, "backbone": "vgg11", "width": 0.125, "batch_size": 32, "precision": "fp32"},
    "exits": {"epochs": 2, "head": "linear", "batch_size": 32, "precision": "fp32", "learning_rate": 0.01},
    "operating_points": {"trials": 12, "batch": 6, "sampler": "random", "policy": ["predictive", "static"]},
}


def finish_study(folder: Path, study: dict[str, Any] = STUDY) -> None:
    """Run a small study in this process."""
    run_study(validate_space(study, "small"), run_context(folder))
    assert len(read_table(folder / "tables", "front")) > 2, "some mistakes take several points"
