"""Set up every test process: its threads, its Hypothesis profile, and which tests run in one process."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Test processes share the cores: each of them computes on one thread. Libraries read the variable when they are
# loaded, and child processes inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
# By itself Ray lets its workers wait for any other process: here they are what a test waits for.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112

import pytest
from hypothesis import settings
from support.laws import register_profiles
from support.shared import made_once

register_profiles()
settings.load_profile("default")
gc.disable()  # until all tests are imported

RAY = "tests/integration"
TOGETHER = (RAY, "tests/bad_input", "tests/cli")
"""Folders whose tests run in one process, because they share session fixtures that take long."""
OWN_RAY = (f"{RAY}/test_object_store.py", f"{RAY}/test_nodes.py")
"""Files that start a Ray of their own, and wait for it most of their time."""

MEMORY = Path("/dev/shm")


def pytest_configure() -> None:
    """Let ``tmp_path`` lie in memory, where there is room: studies flush each of their files to the disk."""
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 * 2**30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process run all tests of a file, or of a folder in ``TOGETHER``."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with what takes longest and mostly waits: another process computes beside it."""
    first = [RAY, OWN_RAY[0]]
    items.sort(key=lambda item: [group_of(item.nodeid) != group for group in first])


def pytest_collection_finish() -> None:
    """Leave libraries and tests out of each later search for garbage, which they would make slow."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """At its end Python collects what the libraries wait for."""
    gc.unfreeze()


def group_of(nodeid: str) -> str:
    """The file or the folder whose tests one process runs."""
    file = nodeid.partition("::")[0]
    if file in OWN_RAY:
        return file
    return next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)


@pytest.fixture(scope="session", autouse=True)
def image_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache of decoded images of this test process, in place of the user's."""
    folder = tmp_path_factory.mktemp("image_cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREDICTIVE_EXIT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a finished tiny study; tests must not change it."""
    from support.studies import run_context, tiny_study

    from study.run.run import run_study

    return made_once(tmp_path_factory, "finished/tiny", lambda folder: run_study(tiny_study(), run_context(folder)))
