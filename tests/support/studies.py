"""A study of seconds, and where to run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search_spaces.spec import StudySpec, validate_space
from study.progress import Reporter
from study.run.run import RunContext

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"name": "digits", "limit": 240, "test_limit": 100, "calibration": 0.2, "validation": 0.2},
    "backbones": {
        "trials": 3,
        "epochs": 2,
        "scheduler": {"kind": "halving", "first_rung": 1, "reduction": 2},
        "backbone": "vgg11",
        "width": 0.125,
        "learning_rate": {"low": 0.001, "high": 0.01, "log": True},
        "batch_size": 32,
        "precision": "fp32",
    },
    "exits": {"trials": 2, "epochs": 1, "head": ["linear", "conv"], "batch_size": 32, "precision": "fp32"},
    "operating_points": {
        "trials": 30,
        "batch": 10,
        "networks": 2,
        "policy": ["predictive", "hierarchical", "static", "placed", "classic"],
        "statistic": ["mean_logit", "mean_max"],
        "overshoot": ["last_exit", "classifier"],
    },
}


def tiny_study(**changes: dict[str, object]) -> StudySpec:
    """A study of seconds; ``changes`` are merged into its sections."""
    sections = {key: value for key, value in TINY.items() if isinstance(value, dict)}
    merged = {key: {**sections.get(key, {}), **changes.get(key, {})} for key in {*sections, *changes}}
    return validate_space({**TINY, **merged}, "tiny")


def surroundings(folder: Path) -> RunContext:
    """Run quietly in a folder."""
    return RunContext(folder=folder, data_root=folder / "data", reporter=Reporter(quiet=True))
