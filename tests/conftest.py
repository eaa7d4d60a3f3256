"""Set up every test process: its threads, its Hypothesis profile, and which tests run in one process."""

from __future__ import annotations

import os
from pathlib import Path

# There is a test process for each core: each of them computes on one thread. Libraries read the variable when they are
# loaded, and child processes inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from hypothesis import settings
from support.laws import register_profiles

register_profiles()
settings.load_profile("default")

RAY = "tests/integration"
TOGETHER = (RAY, "tests/bad_input", "tests/cli")
"""Folders whose tests run in one process, because they share session fixtures that take long."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Group the tests: one process runs all tests of a file, or of a folder in ``TOGETHER``.

    The tests with Ray come first. They take longest and mostly wait, so that another process computes beside them.
    """
    groups = {}
    for item in items:
        file = item.path.relative_to(config.rootpath).as_posix()
        groups[item] = next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)
        item.add_marker(pytest.mark.xdist_group(groups[item]))
    items.sort(key=lambda item: groups[item] != RAY)


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a finished tiny study; tests must not change it."""
    from support.studies import run_context, tiny_study

    from study.run.run import run_study

    folder = tmp_path_factory.mktemp("finished") / "tiny"
    run_study(tiny_study(), run_context(folder))
    return folder
