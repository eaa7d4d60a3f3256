"""One small Ray instance for all integration tests, and one small finished study."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from commands import STUDY  # type: ignore[import-not-found]
from faults import comparable_tables  # type: ignore[import-not-found]

from search_spaces.spec import StudySpec, validate_space
from study.progress import Reporter
from study.run import Surroundings, run_study

TINY = {
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


def surroundings(folder: Path) -> Surroundings:
    """Run quietly in a folder."""
    return Surroundings(folder=folder, data_root=folder / "data", reporter=Reporter(quiet=True))


@pytest.fixture(scope="session")
def ray_instance() -> Iterator[None]:
    """Ray with two logical CPUs, started once."""
    import ray

    from study.phases.connection import start_ray

    start_ray(None)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def finished_study(ray_instance: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a finished tiny study; tests must not change it."""
    folder = tmp_path_factory.mktemp("finished") / "tiny"
    run_study(tiny_study(), surroundings(folder))
    return folder


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """The small study for real commands."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


@pytest.fixture(scope="session")
def lived(ray_instance: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """The tables of the small study, run locally by a process that nothing befell."""
    folder = tmp_path_factory.mktemp("lived") / "small"
    run_study(validate_space(STUDY, "small"), surroundings(folder))
    return comparable_tables(folder)
