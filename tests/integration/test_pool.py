"""One pool of workers serves all jobs: workers are kept, replaced when they die, and errors belong to their jobs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from search_spaces.spec import ResourcesSpec
from study.execution.ray.pool import Job, WorkerPool


@pytest.fixture
def pool(ray_instance: None) -> Iterator[WorkerPool]:
    with closing(WorkerPool(ResourcesSpec(max_failures=0))) as made:
        yield made


def tell_process() -> None:
    time.sleep(0.5)  # so that two workers are at work
    tune.report({"pid": os.getpid()})


def import_something() -> None:
    import_module("decimal")


def tell_process_with_others(place: Path, processes: int, seconds: float) -> None:
    """Begin when as many processes are at it, and end after so many seconds."""
    (place / str(os.getpid())).touch()
    while len(list(place.iterdir())) < processes:
        time.sleep(0.05)
    time.sleep(seconds)
    tune.report({"pid": os.getpid()})


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(text: str) -> None:
    raise ValueError(text)


def die_once(marker: Path) -> None:
    if not marker.exists():
        marker.touch()
        die()


def processes(pool: WorkerPool, *keys: str) -> set[int]:
    found: dict[str, int] = {}

    def on_report(key: str, report: dict[str, Any]) -> None:
        if "pid" in report:
            found[key] = report["pid"]

    assert pool.run([Job(key, tell_process, ()) for key in keys], on_report=on_report) == {}
    assert set(found) == set(keys)
    return set(found.values())


def test_workers_are_kept_and_errors_belong_to_their_jobs(pool: WorkerPool) -> None:
    first = processes(pool, "a", "b", "c", "d")
    assert processes(pool, "a", "e") <= first, "nothing is imported anew"
    ended: dict[str, bool] = {}
    jobs = [Job("dies", die, ()), Job("good", tell_process, ()), Job("refused", refuse, ("not so",))]
    errors = pool.run(jobs, on_end=lambda key, error: ended.update({key: error is None}))
    assert ended == {"dies": False, "good": True, "refused": False} and set(errors) == {"dies", "refused"}
    assert "not so" in str(errors["refused"]) and "died" in str(errors["dies"])
    survivors = processes(pool, "f")
    for worker in survivors:
        os.kill(worker, signal.SIGKILL)  # while it waits for work
    time.sleep(1)
    assert processes(pool, "g") != survivors, "its death is no failure of the next job"


def test_the_first_job_goes_to_the_worker_that_has_been_free_for_longest(pool: WorkerPool, tmp_path: Path) -> None:
    """The executor relies on it: a traced network goes back to the worker that keeps the network."""
    workers: dict[str, int] = {}
    for _ in range(2):
        before = dict(workers)
        jobs = [
            Job(key, tell_process_with_others, (tmp_path, 2, seconds)) for key, seconds in (("quick", 0), ("slow", 1.5))
        ]
        assert pool.run(jobs, on_report=lambda key, report: workers.update({key: report["pid"]})) == {}
        assert before in ({}, workers) and len(set(workers.values())) == 2


def test_a_job_whose_worker_dies_is_tried_again_in_a_pool_with_the_cpus_of_a_closed_one(
    ray_instance: None, tmp_path: Path
) -> None:
    pool = WorkerPool(ResourcesSpec())
    assert pool.run([Job("one", import_something, ())]) == {}
    pool.close()
    with closing(WorkerPool(ResourcesSpec(max_failures=1))) as pool:
        assert pool.run([Job("a", die_once, (tmp_path / "marker",))]) == {}
        assert (tmp_path / "marker").exists()
