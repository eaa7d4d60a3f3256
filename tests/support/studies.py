"""A study of seconds, and where to run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search_spaces.spec import StudySpec, validate_space
from study.progress import Reporter
from study.run.plan import RunContext

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


def tiny_settings(**changes: object) -> dict[str, object]:
    """The keys of a study of seconds; ``changes`` are merged into its sections, or replace other keys."""
    merged = {
        name: {**TINY.get(name, {}), **change} if isinstance(change, dict) else change
        for name, change in changes.items()
    }
    return {**TINY, **merged}


def tiny_study(**changes: object) -> StudySpec:
    """A study of seconds with some changes."""
    return validate_space(tiny_settings(**changes), "tiny")


def run_context(folder: Path, *, local: bool = True) -> RunContext:
    """Run quietly in a folder: in this process, or else on Ray on this machine."""
    return RunContext(folder=folder, data_root=folder / "data", local=local, reporter=Reporter(quiet=True))
