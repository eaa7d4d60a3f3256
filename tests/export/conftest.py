"""A finished study and exports of its points, shared by the tests of this folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.exports import point_of_most_exits
from support.shared import made_once
from support.studies import run_context

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


def run_small(folder: Path, points: dict[str, Any]) -> None:
    """Run the study with some changes of its search."""
    changed = {**STUDY, "operating_points": {**STUDY["operating_points"], **points}}
    run_study(validate_space(changed, "small"), run_context(folder))


@pytest.fixture(scope="session")
def study_of_exits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a study whose images stop at several exits; tests must not change it."""
    return made_once(tmp_path_factory, "exits/small", lambda folder: run_small(folder, {}))


@pytest.fixture(scope="session")
def study_of_precisions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a study on the digits in fp32 and int8; tests must not change it.

    CI names the run folder of the quickstart, which it has just run.
    """
    if quickstart := os.environ.get("PREDICTIVE_EXIT_QUICKSTART"):
        return Path(quickstart)
    more = {"quantization": ["fp32", "int8"], "objectives": ["accuracy", "flops", "energy"]}
    return made_once(tmp_path_factory, "precisions/small", lambda folder: run_small(folder, more))


@pytest.fixture(scope="session")
def exported(study_of_exits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The point whose images stop at most exits, in all formats; tests must not change it."""
    export = ["export", str(study_of_exits), "--point", point_of_most_exits(study_of_exits), "--format", "all"]

    def make(folder: Path) -> None:
        assert main([*export, "--output", str(folder)]) == 0

    return made_once(tmp_path_factory, "exported/model", make)
