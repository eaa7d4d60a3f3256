"""Training trials as Ray Tune trials.

Ray is where trials run, not where their state is kept: every start submits just the trials that are missing as a new
Tune run, and each trial goes on from its own last checkpoint in the run folder. Tune's experiment folder is scratch.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.exceptions import RayActorError, RayError
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig
from ray.tune.schedulers import ASHAScheduler

from results.storage.paths import Location, location
from search_spaces.spec import ResourcesSpec, SchedulerSpec
from study.data.settings import Dataset
from study.errors import UserError
from study.execution.failures import FailureLog
from study.execution.ray.connection import start_ray
from study.execution.ray.nodes import last_line, refuse_impossible
from study.execution.trial import TrialPlan, run_trial
from study.progress import Reporter, Task
from study.training.loop import pick_device


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where and with what phase 1 works."""

    checkpoints: Location
    """Absolute, and readable and writable on every node."""
    dataset: Dataset
    resources: ResourcesSpec
    reporter: Reporter
    address: str | None = None
    """Of a running Ray cluster; None starts Ray on this machine."""

    @property
    def failures(self) -> FailureLog:
        """Of the run folder."""
        return FailureLog(self.checkpoints.parent / "failures.json")

    @property
    def device(self) -> torch.device:
        """What trials get, on whatever node they run."""
        return device_of(self.resources)


def device_of(resources: ResourcesSpec) -> torch.device:
    """The kind of device that trials, traces and measurements of a study get."""
    return torch.device("cuda" if resources.gpus_per_trial else "cpu")


@dataclass(frozen=True)
class Failure:
    """Why a trial did not come to its end."""

    error: str
    """One line."""
    worker_died: bool
    """The process that trained it ended, or its node: nothing is known against the trial itself."""


def train_trial(config: Mapping[str, Any], dataset: Dataset) -> None:
    """The function that Tune runs: one trial, on whatever device Ray gave it."""
    torch.set_num_threads(max(1, int(config["cpus"])))
    run_trial(
        TrialPlan.from_plain(config["plan"]),
        dataset,
        location(config["checkpoints"]),
        epochs=config["epochs"],
        device=pick_device("cuda" if config["gpus"] else "cpu"),
        on_epoch=lambda row: tune.report({"epoch": row.epoch, "score": row.score}),
    )


def run_trials(
    plans: Sequence[TrialPlan],
    epochs: int,
    workshop: Workshop,
    *,
    name: str,
    asha: SchedulerSpec | None = None,
) -> dict[str, Failure]:
    """Train trials up to ``epochs`` epochs each.

    Args:
        plans: the trials that are not done yet.
        epochs: the budget, counted from each trial's very first start.
        workshop: where to work.
        name: told in the progress.
        asha: stop weak trials asynchronously.

    Returns:
        trial id -> why, of the trials that failed more than ``max_failures`` times.

    Raises:
        UserError: no node is large enough, the run folder cannot be written any more, or the cluster is gone.
    """
    resources = workshop.resources
    workshop.failures.forget(plan.trial_id for plan in plans)
    start_ray(workshop.address)
    refuse_impossible(resources)
    configs = [
        {
            "trial_id": plan.trial_id,
            "plan": plan.to_plain(),
            "epochs": epochs,
            "checkpoints": str(workshop.checkpoints),
            "cpus": resources.cpus_per_trial,
            "gpus": resources.gpus_per_trial,
        }
        for plan in plans
    ]
    scratch = Path(tempfile.mkdtemp(prefix="predictive-exit-"))
    try:
        with workshop.reporter.task(name, len(plans) * epochs) as task:
            tuner = tune.Tuner(
                tune.with_resources(
                    tune.with_parameters(train_trial, dataset=workshop.dataset),
                    {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial},
                ),
                param_space=tune.grid_search(configs),
                tune_config=TuneConfig(reuse_actors=True, scheduler=_asha(asha, epochs)),
                run_config=RunConfig(
                    storage_path=str(scratch),
                    name="tune",
                    verbose=0,
                    failure_config=FailureConfig(max_failures=resources.max_failures),
                    callbacks=[_Watcher(task, workshop.failures)],
                ),
            )
            grid = tuner.fit()
    except RayError as error:
        raise UserError(f"Ray ended ({last_line(str(error))}): the same command goes on from here") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    failures = {}
    for result in grid:
        if result.error is not None:
            refuse_lost_storage(result.error)
            text = last_line(str(result.error))
            died = isinstance(result.error, RayActorError)
            failures[result.config["trial_id"]] = Failure(f"its worker died: {text}" if died else text, died)
    return failures


_STORAGE_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EIO,
    errno.ESTALE,
    errno.ENOTCONN,
)


def refuse_lost_storage(error: BaseException) -> None:
    """A full or lost disk is no fault of a trial: a study that went on would end without it.

    Raises:
        UserError: the error is of that kind.
    """
    cause = getattr(error, "cause", error)
    if isinstance(cause, OSError) and cause.errno in _STORAGE_ERRORS:
        raise UserError(f"{last_line(str(cause))}: mend that; the same command goes on from here")


def _asha(spec: SchedulerSpec | None, epochs: int) -> Any:
    if spec is None:
        return None
    return ASHAScheduler(
        time_attr="epoch",
        metric="score",
        mode="max",
        max_t=epochs,
        grace_period=min(spec.first_rung, epochs),
        reduction_factor=spec.reduction,
    )


class _Watcher(Callback):  # type: ignore[misc]
    """Tells the epochs of all trials, summed up, and writes down which trials failed."""

    def __init__(self, task: Task, failures: FailureLog) -> None:
        self.task: Task | None = task
        self.failures = failures
        self.epochs: dict[str, int] = {}
        self.total = 0

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks into the experiment folder, which nobody reads again.
        return {"task": None, "epochs": {}}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        """Called by Tune for each report of a trial."""
        if self.task and "epoch" in result:
            identity = trial.config["trial_id"]
            self.total += result["epoch"] - self.epochs.get(identity, 0)
            self.epochs[identity] = result["epoch"]
            self.task.advance(self.total, f"{identity} validation score {result['score']:.4f}")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Called by Tune for a trial that failed for good."""
        with contextlib.suppress(OSError):  # a full disk is told where the trials' errors are looked through
            self.failures.add(TrialPlan.from_plain(trial.config["plan"]), last_line(trial.get_error() or ""))
