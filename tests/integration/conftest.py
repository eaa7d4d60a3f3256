"""One small Ray instance and one cluster for all tests with Ray, and one small study to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from support.faults import STUDY, comparable_tables
from support.ray_nodes import Cluster, cluster
from support.studies import run_context

from search_spaces.spec import validate_space
from study.run.run import run_study


@pytest.fixture(scope="session")
def ray_instance() -> Iterator[None]:
    """Ray with two logical CPUs, started once."""
    import ray

    from study.execution.ray.connection import start_ray

    start_ray(None)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def head() -> Iterator[Cluster]:
    """A cluster of one node with one CPU and what Ray takes for a GPU; it asks for a token."""
    with cluster("--num-cpus=1", "--num-gpus=1") as made:
        yield made


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """The small study for real commands."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


@pytest.fixture(scope="session")
def lived(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """The tables of the small study, run by this process from its start to its end."""
    folder = tmp_path_factory.mktemp("lived") / "small"
    run_study(validate_space(STUDY, "small"), run_context(folder))
    return comparable_tables(folder)
