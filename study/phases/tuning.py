"""Training trials as Ray Tune trials.

Ray is where trials run, not where their state is kept: every start submits just the trials that are missing as a new
Tune run, and each trial goes on from its own last checkpoint in the run folder. Tune's experiment folder is scratch.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig
from ray.tune.schedulers import ASHAScheduler

from search_spaces.spec import ResourcesSpec, SchedulerSpec
from study.data import Dataset
from study.errors import UserError
from study.phases.connection import start_ray
from study.progress import Reporter, Task
from study.training import pick_device
from study.trials import TrialPlan, run_trial


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where and with what phase 1 works."""

    checkpoints: Path
    """Must be readable and writable on every node."""
    dataset: Dataset
    resources: ResourcesSpec
    reporter: Reporter
    address: str | None = None
    """Of a running Ray cluster; None starts Ray on this machine."""


def train_trial(config: Mapping[str, Any], dataset: Dataset) -> None:
    """The function that Tune runs: one trial, on whatever device Ray gave it."""
    torch.set_num_threads(max(1, int(config["cpus"])))
    run_trial(
        TrialPlan.from_plain(config["plan"]),
        dataset,
        Path(config["checkpoints"]),
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
) -> dict[str, str]:
    """Train trials up to ``epochs`` epochs each.

    Args:
        plans: the trials that are not done yet.
        epochs: the budget, counted from each trial's very first start.
        workshop: where to work.
        name: told in the progress.
        asha: stop weak trials asynchronously.

    Returns:
        trial id -> error, one line, of the trials that failed for good.
    """
    resources = workshop.resources
    start_ray(workshop.address)
    _refuse_impossible(resources)
    configs = [
        {
            "trial_id": plan.trial_id,
            "plan": plan.to_plain(),
            "epochs": epochs,
            "checkpoints": str(workshop.checkpoints.absolute()),
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
                    callbacks=[_EpochCounter(task)],
                ),
            )
            grid = tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {result.config["trial_id"]: _last_line(str(result.error)) for result in grid if result.error is not None}


def _refuse_impossible(resources: ResourcesSpec) -> None:
    """Trials that fit on no node would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(
        node.get("CPU", 0) >= resources.cpus_per_trial and node.get("GPU", 0) >= resources.gpus_per_trial
        for node in nodes
    ):
        most = max((node.get("CPU", 0), node.get("GPU", 0)) for node in nodes)
        raise UserError(
            f"resources: a trial asks for {resources.cpus_per_trial:g} CPUs and {resources.gpus_per_trial:g} GPUs, but "
            f"the largest node has {most[0]:g} and {most[1]:g}; lower resources.cpus_per_trial or "
            "resources.gpus_per_trial (0: train on CPUs), as in --set resources.gpus_per_trial=0"
        )


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


class _EpochCounter(Callback):  # type: ignore[misc]
    """Tells the epochs of all trials, summed up."""

    def __init__(self, task: Task) -> None:
        self.task: Task | None = task
        self.epochs: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks into the experiment folder, which nobody reads again.
        return {"task": None, "epochs": {}}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        """Called by Tune for each report of a trial."""
        if self.task and "epoch" in result:
            identity = trial.config["trial_id"]
            self.epochs[identity] = result["epoch"]
            self.task.advance(sum(self.epochs.values()), f"{identity} validation score {result['score']:.4f}")


def _last_line(error: str) -> str:
    lines = [line for line in error.strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "unknown error"
