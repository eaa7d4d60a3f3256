"""The executor on Ray: trials as Tune trials, traces and measurements as tasks.

Ray is where jobs run, not where their state is kept: each start submits only the trials that are missing, and each
trial resumes from its own last checkpoint in the run folder. Tune's experiment folder is scratch.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import ray
import torch
from ray import tune
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig
from ray.tune.schedulers import ASHAScheduler

from results.storage.paths import Location, location
from search_spaces.spec import OperatingPointsSpec, ResourcesSpec, SchedulerSpec
from study.data.settings import Dataset
from study.errors import UserError
from study.execution.executor import (
    EpochProgress,
    NamedImages,
    Network,
    TrainingContext,
    device_of,
    threads_of,
)
from study.execution.failures import Failure, FailureLog, last_line, refuse_lost_storage
from study.execution.jobs import measure_job, trace_job, train_job
from study.execution.ray.connection import start_ray
from study.execution.ray.nodes import refuse_impossible
from study.execution.trial_plan import TrialPlan
from study.traces.store import TraceStore
from study.training.loop import fast_precision


class RayExecutor:
    """Works on a Ray cluster, or on Ray of this machine. Implements :class:`~execution.executor.Executor`."""

    def __init__(self, resources: ResourcesSpec, address: str | None = None) -> None:
        """Nothing is started before the first job.

        Args:
            resources: of each job.
            address: of a running cluster; None starts Ray on this machine.
        """
        self._resources, self._address = resources, address

    @property
    def device(self) -> torch.device:
        """The kind of device that each job gets."""
        return device_of(self._resources)

    def fast_precision(self) -> Literal["fp32", "bf16"]:
        """See :meth:`Executor.fast_precision`; Ray is started for a cluster only."""
        if self._address is None:
            return fast_precision(self.device)
        self._start()
        precision: Literal["fp32", "bf16"] = _result_of(
            self._submit(_fast_precision, self.device), "the precision of this cluster"
        )
        return precision

    def _start(self) -> None:
        start_ray(self._address)
        refuse_impossible(self._resources)

    def train(
        self,
        plans: Sequence[TrialPlan],
        epochs: int,
        context: TrainingContext,
        *,
        name: str,
        asha: SchedulerSpec | None = None,
    ) -> dict[str, Failure]:
        """See :meth:`Executor.train`."""
        resources = self._resources
        context.failures.forget(plan.trial_id for plan in plans)
        self._start()
        configs = [
            {
                "trial_id": plan.trial_id,
                "plan": plan.to_plain(),
                "epochs": epochs,
                "checkpoints": str(context.checkpoints),
                "device": self.device.type,
                "threads": threads_of(resources),
            }
            for plan in plans
        ]
        scratch = Path(tempfile.mkdtemp(prefix="predictive-exit-"))
        try:
            with context.reporter.task(name, len(plans) * epochs) as task:
                tuner = tune.Tuner(
                    tune.with_resources(
                        tune.with_parameters(_train, dataset=context.dataset),
                        {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial},
                    ),
                    param_space=tune.grid_search(configs),
                    tune_config=TuneConfig(reuse_actors=True, scheduler=_asha(asha, epochs)),
                    run_config=RunConfig(
                        storage_path=str(scratch),
                        name="tune",
                        verbose=0,
                        failure_config=FailureConfig(max_failures=resources.max_failures),
                        callbacks=[_Watcher(EpochProgress(task), context.failures)],
                    ),
                )
                grid = tuner.fit()
        except RayError as error:
            raise UserError(f"Ray ended ({last_line(error)}): the same command goes on from here") from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        failures = {}
        for result in grid:
            if result.error is not None:
                refuse_lost_storage(result.error)
                text = last_line(result.error)
                died = isinstance(result.error, RayActorError)
                failures[result.config["trial_id"]] = Failure(f"its worker died: {text}" if died else text, died)
        return failures

    def trace(
        self,
        missing: Mapping[Network, Sequence[str]],
        splits: Mapping[str, NamedImages],
        traces: TraceStore,
        *,
        on_done: Callable[[Network], None],
    ) -> None:
        """See :meth:`Executor.trace`."""
        self._start()
        # Once each into the object store, whatever the number of tasks.
        store, kept = ray.put(traces), {split: ray.put(named) for split, named in splits.items()}
        waiting = {
            self._submit(_trace, store, *network, list(names), *(kept[split] for split in names)): network
            for network, names in missing.items()
        }
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            network = waiting.pop(ready)
            _result_of(ready, f"the trace of {network[0]} at {network[1]}")
            on_done(network)

    def measure(self, network: Network, points: OperatingPointsSpec, profile: Location, traces: TraceStore) -> None:
        """See :meth:`Executor.measure`."""
        self._start()
        task = self._submit(_measure, ray.put(traces), *network, points, profile)
        _result_of(task, f"the cost profile of {network[0]} at {network[1]}")

    def close(self) -> None:
        """Nothing to end: the workers end with Ray."""

    def _submit(self, function: Any, *arguments: Any) -> Any:
        cpus, gpus = self._resources.cpus_per_trial, self._resources.gpus_per_trial
        # A worker that dies is no fault of the task; one that dies every time is.
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 1 + self._resources.max_failures}
        return ray.remote(function).options(**options).remote(threads_of(self._resources), *arguments)


def _result_of(task: Any, what: str) -> Any:
    try:
        return ray.get(task)
    except RayTaskError as error:
        refuse_lost_storage(error)
        cause = error.cause
        raise UserError(str(cause) if isinstance(cause, UserError) else f"{what}: {last_line(error)}") from None
    except RayError as error:
        raise UserError(f"{what}: {last_line(error)}; the same command goes on from here") from None


def _trace(threads: int, traces: TraceStore, weights: Any, precision: Any, names: list[str], *images: Any) -> None:
    trace_job(traces, weights, precision, dict(zip(names, images, strict=True)), threads=threads)


def _fast_precision(threads: int, device: torch.device) -> Literal["fp32", "bf16"]:
    return fast_precision(device)


def _measure(threads: int, *arguments: Any) -> None:
    measure_job(*arguments, threads=threads)


def _train(config: Mapping[str, Any], dataset: Dataset) -> None:
    train_job(
        TrialPlan.from_plain(config["plan"]),
        dataset,
        location(config["checkpoints"]),
        epochs=config["epochs"],
        device=torch.device(config["device"]),
        threads=config["threads"],
        on_epoch=lambda row: tune.report({"epoch": row.epoch, "score": row.score}),
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


class _Watcher(Callback):  # type: ignore[misc]
    """Reports the epochs of all trials, and logs which trials failed."""

    def __init__(self, progress: EpochProgress, failures: FailureLog) -> None:
        self.progress: EpochProgress | None = progress
        self.failures = failures

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks into the experiment folder, which nobody reads again.
        return {"progress": None}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        """Called by Tune for each report of a trial."""
        if self.progress and "epoch" in result:
            self.progress.advance(trial.config["trial_id"], result["epoch"], result["score"])

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Called by Tune for a trial that failed for good."""
        with contextlib.suppress(OSError):  # a full disk is told where the errors of the trials are looked through
            self.failures.add(TrialPlan.from_plain(trial.config["plan"]), last_line(trial.get_error() or ""))
