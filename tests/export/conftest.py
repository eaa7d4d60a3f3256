"""A finished study and exports of its points, shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.studies import run_context

from results.parts import read_table
from search_spaces.spec import validate_space
from study.cli.main import main
from study.run.run import run_study

STUDY: dict[str, Any] = {
    "name": "small",
    "data": {"name": "digits", "limit": 400, "test_limit": 120, "calibration": 0.2, "validation": 0.2},
    "backbones": {"epochs": 9, "backbone": "vgg11", "width": 0.125, "batch_size": 32, "precision": "fp32"},
    "exits": {"epochs": 3, "head": "conv", "batch_size": 32, "precision": "fp32", "learning_rate": 0.01},
    "operating_points": {
        "search": "exact",
        "objectives": ["accuracy", "flops"],
        "policy": ["hierarchical", "predictive", "optimal_stopping"],
        "criterion": ["logit", "margin"],
    },
}


@pytest.fixture(scope="session")
def study_of_exits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a study whose images stop at several exits; tests must not change it."""
    folder = tmp_path_factory.mktemp("exits") / "small"
    run_study(validate_space(STUDY, "small"), run_context(folder))
    return folder


def point_of_most_exits(folder: Path) -> str:
    """The number of the point of the front at which the test images stop at most exits."""
    exits = read_table(folder / "tables", "exits").dropna(subset="point")
    stopped = exits[(exits["split"] == "test") & (exits["share_stopped"] > 0)].groupby("point").size()
    return str(int(stopped.idxmax()))


@pytest.fixture(scope="session")
def exported(study_of_exits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The point whose images stop at most exits, in all formats; tests must not change it."""
    folder, point = tmp_path_factory.mktemp("exported") / "model", point_of_most_exits(study_of_exits)
    assert main(["export", str(study_of_exits), "--point", point, "--output", str(folder), "--format", "all"]) == 0
    return folder
