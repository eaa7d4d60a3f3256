"""One pool of workers for all jobs of a start.

A single Tune run lasts from the first job of a start to the last. A thread serves the run: Tune asks the search
algorithm :class:`_Queue` for the next trial, and each job is a trial. Tune places the trials, shares GPUs, lets a
cluster grow, and retries trials. The actors of finished trials are kept for the next jobs: a new actor imports torch
anew, which takes longer than many a job.
"""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune import FailureConfig, RunConfig, TuneConfig
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from search_spaces.spec import ResourcesSpec
from study.errors import UserError
from study.execution.failures import last_line
from study.execution.ray.scratch import scratch_folder
from study.networks.own_code import add_sources, known_sources

_RESTARTS = 3
"""How many times the Tune run of a pool is started anew after an error of Tune itself."""
_END_SECONDS = 10.0
"""A Tune run without work ends within a second."""


@dataclass(frozen=True, eq=False)
class Job:
    """A function call on a worker."""

    key: str
    """Tells the jobs of one :meth:`WorkerPool.run` apart."""
    function: Callable[..., None]
    arguments: tuple[Any, ...]
    """Values, and references to objects in Ray's object store, which the worker resolves."""
    scheduler: TrialScheduler | None = None
    """Decides about the reports of the job, in this process; None: the job runs to its end."""
    sources: Mapping[str, str] = field(default_factory=known_sources)
    """The user's own backbones, which no worker has."""

    def __deepcopy__(self, memo: object) -> Job:
        return self  # Tune neither copies a job nor takes it apart

    def __reduce__(self) -> tuple[Any, ...]:
        return Job, (self.key, self.function, self.arguments, None, self.sources)

    def __repr__(self) -> str:
        return self.function.__name__


def _work(config: dict[str, Job]) -> None:
    """The function of every trial."""
    job = config["job"]
    add_sources(job.sources)
    job.function(*(_fetch(one) if isinstance(one, ray.ObjectRef) else one for one in job.arguments))


@lru_cache(maxsize=8)
def _fetch(reference: ray.ObjectRef) -> Any:
    """An object that jobs share; the next job of this worker gets the same object, with what the first prepared."""
    return ray.get(reference)


@dataclass(eq=False)
class WorkerPool:
    """Runs jobs on actors of a Ray cluster, each with the resources of a trial."""

    resources: ResourcesSpec
    _waiting: queue.SimpleQueue[Job | None] = field(default_factory=queue.SimpleQueue, init=False)
    _events: queue.SimpleQueue[tuple[str, Any, Any]] = field(default_factory=queue.SimpleQueue, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _scratch: Path | None = field(default=None, init=False)
    _busy: bool = field(default=False, init=False)
    _closing: threading.Event = field(default_factory=threading.Event, init=False)

    def run(
        self,
        jobs: Sequence[Job],
        *,
        on_report: Callable[[str, dict[str, Any]], None] = lambda key, report: None,
        on_end: Callable[[str, BaseException | None], None] = lambda key, error: None,
    ) -> dict[str, BaseException]:
        """Run jobs until the last has ended.

        Args:
            jobs: with different keys.
            on_report: called with the key and each report of a job.
            on_end: called with the key and the error (None without an error) of each job that ended for good.

        Returns:
            Key -> error, of the jobs that failed more than ``max_failures`` times.

        Raises:
            UserError: Ray ended.
        """
        left = {job.key: job for job in jobs}
        assert len(left) == len(jobs), "keys tell jobs apart"
        errors: dict[str, BaseException] = {}
        self._busy = True
        self._submit(left.values())
        restarts = 0
        while left:
            kind, key, value = self._events.get()
            if kind == "report" and key in left:
                on_report(key, value)
            elif kind == "end" and key in left:
                del left[key]
                if value is not None:
                    errors[key] = value
                on_end(key, value)
            elif kind == "stopped":
                restarts += 1
                if isinstance(value, RayError) or not ray.is_initialized() or restarts > _RESTARTS:
                    raise UserError(f"Ray ended ({last_line(value)}): the same command goes on from here") from None
                self._thread = None
                self._submit(left.values())
        self._busy = False
        return errors

    def _submit(self, jobs: Iterable[Job]) -> None:
        if self._scratch is None:
            self._scratch = scratch_folder("predictive-exit-", Path(tempfile.gettempdir()))
        if self._thread is None:
            self._waiting, self._events = queue.SimpleQueue(), queue.SimpleQueue()
            self._thread = threading.Thread(target=self._serve, args=(self._waiting, self._events), daemon=True)
            self._thread.start()
        for job in jobs:
            self._waiting.put(job)

    def _serve(self, waiting: queue.SimpleQueue[Job | None], events: queue.SimpleQueue[tuple[str, Any, Any]]) -> None:
        """The thread: one Tune run."""
        try:
            trainable = tune.with_resources(
                _work, {"cpu": self.resources.cpus_per_trial, "gpu": self.resources.gpus_per_trial}
            )
            jobs = _Queue(waiting)
            tune.Tuner(
                trainable,
                tune_config=TuneConfig(num_samples=-1, reuse_actors=True, search_alg=jobs, scheduler=_Scheduler(jobs)),
                run_config=RunConfig(
                    storage_path=str(self._scratch),
                    name="tune",
                    verbose=0,
                    failure_config=FailureConfig(max_failures=self.resources.max_failures),
                    callbacks=[_Listener(jobs, events, self._closing)],
                ),
            ).fit()
        except BaseException as error:
            events.put(("stopped", None, error))

    def close(self) -> None:
        """End the Tune run and the workers; jobs that run are cut off.

        A Tune run without jobs ends by itself: one that is cut off keeps its workers, and with them the CPUs that the
        next pool of this process needs.
        """
        self._waiting.put(None)
        if self._thread is not None and not self._busy:  # a thread with jobs ends by itself, if Ray still answers
            self._thread.join(_END_SECONDS)
        self._closing.set()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        self._thread = self._scratch = None


class _Kept:
    """Tune copies and pickles what it is given, for experiments that are restored; these objects stay as they are."""

    def __deepcopy__(self, memo: object) -> _Kept:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Queue(_Kept, Searcher):  # type: ignore[misc]
    """Gives Tune the jobs that wait. Called by the thread of the pool alone."""

    def __init__(self, waiting: queue.SimpleQueue[Job | None]) -> None:
        super().__init__()
        self.waiting = waiting
        self.live: dict[str, Job] = {}
        """The jobs that Tune runs, by the identifier that Tune gave to the trial."""
        self.errors: dict[str, BaseException] = {}
        """The last error of each of these trials."""

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        """Called by Tune: there is no space to search."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next job. Waits for a job only where no job runs, since Tune watches the jobs that run."""
        try:
            job = self.waiting.get(block=not self.live)
        except queue.Empty:
            return None
        if job is None:
            return Searcher.FINISHED
        self.live[trial_id] = job
        return {"job": job}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Called by Tune; the listener keeps the account."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing is restored from Tune's folder."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing is restored from Tune's folder."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing is restored from Tune's folder."""


class _ErrorKeeper(_Kept):
    """Keeps the error of a trial, which Tune itself writes to a file, and only to text for some errors."""

    def __init__(self, errors: dict[str, BaseException], trial: Any) -> None:
        self.errors, self.identity, self.usual = errors, trial.trial_id, type(trial).handle_error.__get__(trial)

    def __call__(self, error: BaseException | None = None) -> None:
        if error is not None:
            self.errors[self.identity] = error
        self.usual(error)


class _Scheduler(_Kept, FIFOScheduler):  # type: ignore[misc]
    """Asks the scheduler of each job, and keeps the actors of ended trials."""

    def __init__(self, jobs: _Queue) -> None:
        super().__init__()
        self.jobs, self.keeps = jobs, False

    def _of(self, trial: Any) -> TrialScheduler | None:
        job = self.jobs.live.get(trial.trial_id)
        return job.scheduler if job else None

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Called by Tune for each new trial, and for each trial that is tried again."""
        trial.handle_error = _ErrorKeeper(self.jobs.errors, trial)
        if not self.keeps:
            # By itself Tune keeps only as many actors as there are trials that wait.
            tune_controller._actor_cache.increase_max(trial.placement_group_factory, by=10**6)
            self.keeps = True
        if scheduler := self._of(trial):
            scheduler.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> str:
        """Called by Tune for each report."""
        scheduler = self._of(trial)
        return str(scheduler.on_trial_result(tune_controller, trial, result)) if scheduler else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Any) -> None:
        """Called by Tune for a trial that ended."""
        if scheduler := self._of(trial):
            scheduler.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Called by Tune for a trial that ended before it ran."""
        if scheduler := self._of(trial):
            scheduler.on_trial_remove(tune_controller, trial)


class _Closed(BaseException):
    """The pool was closed while jobs ran."""


class _Listener(_Kept, TrialProgressCallback):  # type: ignore[misc]
    """Passes on what Tune reports of the jobs. Jobs and reports are matched by the identifier of the trial.

    Takes the place of the callback with which Tune prints a line on each trial.
    """

    def __init__(self, jobs: _Queue, events: queue.SimpleQueue[tuple[str, Any, Any]], closing: threading.Event) -> None:
        self.jobs, self.events, self.closing = jobs, events, closing
        self.started: set[str] = set()
        self.again: set[str] = set()

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        """Called by Tune some ten times a second while jobs run."""
        if self.closing.is_set():
            raise _Closed

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Called by Tune when a worker takes a job."""
        self.started.add(trial.trial_id)

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        """Called by Tune for each report of a job."""
        self.events.put(("report", self.jobs.live[trial.trial_id].key, result))

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Called by Tune for a job that failed and is tried again."""
        self.started.discard(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Called by Tune for a job that ended."""
        self.events.put(("end", self.jobs.live.pop(trial.trial_id).key, None))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Called by Tune for a job that failed for good."""
        job = self.jobs.live.pop(trial.trial_id)
        if trial.trial_id not in self.started and job.key not in self.again:
            self.again.add(job.key)  # the worker had died before it took the job: once more, with another worker
            self.jobs.waiting.put(job)
            return
        error = self.jobs.errors.pop(trial.trial_id, None) or RuntimeError("unknown error")
        self.events.put(("end", job.key, error))


os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "200")  # as Tune does for its own lists: a cluster grows at once
