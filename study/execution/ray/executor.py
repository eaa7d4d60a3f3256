"""The executor on Ray: trials, traces and measurements are jobs of one pool of workers.

Ray is where jobs run, not where their state is kept: each start submits only the trials that are missing, and each
trial resumes from its own last checkpoint in the run folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Literal

import ray
import torch
from ray import tune
from ray.exceptions import RayError, RayTaskError
from ray.tune.schedulers import ASHAScheduler

from results.storage.paths import Location
from search_spaces.spec import OperatingPointsSpec, ResourcesSpec, SchedulerSpec
from study.data.settings import Dataset, ImageSet, pickled_by_value
from study.errors import UserError
from study.execution.executor import (
    NamedImages,
    Network,
    TrainingContext,
    device_of,
    phase_progress,
    threads_of,
)
from study.execution.failures import Failure, last_line, refuse_lost_storage
from study.execution.jobs import measure_job, trace_job, train_job
from study.execution.ray.connection import start_ray
from study.execution.ray.nodes import node_without_images, refuse_impossible
from study.execution.ray.pool import Job, WorkerPool
from study.execution.trial_plan import TrialPlan
from study.progress import Reporter
from study.traces.store import TraceStore
from study.training.learning_curves import Epoch
from study.training.loop import fast_precision


class RayExecutor:
    """Works on a Ray cluster, or on Ray of this machine. Implements :class:`~execution.executor.Executor`."""

    def __init__(self, resources: ResourcesSpec, address: str | None = None) -> None:
        """Nothing is started before the first job.

        Args:
            resources: of each job.
            address: of a running cluster; None starts Ray on this machine.
        """
        self._resources, self._address, self._threads = resources, address, threads_of(resources)
        self.device = device_of(resources)
        self._pool = WorkerPool(resources)
        self._stored: list[tuple[object, ray.ObjectRef]] = []
        self._cached: set[tuple[str, str]] = set()
        """Nodes, each with an entry of images that it has read; see :func:`~nodes.node_without_images`."""
        self._traced: dict[Network, int] = {}
        """Networks in the order in which their traces were ready."""

    def fast_precision(self) -> Literal["fp32", "bf16"]:
        """See :meth:`Executor.fast_precision`; Ray is started for a cluster only."""
        if self._address is None:
            return fast_precision(self.device)
        self._start()
        found: list[Literal["fp32", "bf16"]] = []
        job = Job("precision", _fast_precision, (self.device,))
        for error in self._pool.run([job], on_report=lambda key, report: found.append(report["precision"])).values():
            raise _refusal(error, "the precision of this cluster")
        return found[0]

    def _start(self) -> None:
        start_ray(self._address)
        refuse_impossible(self._resources)

    def _put(self, value: object, images: Iterable[ImageSet] = (), reporter: Reporter | None = None) -> ray.ObjectRef:
        """A large value in the object store of Ray; each value is stored once, whatever the number of jobs.

        ``images`` are those of the value. A cluster gets them as their place where all nodes can read them there.
        """
        for stored, reference in self._stored:
            if stored is value:
                return reference
        token = pickled_by_value.set(not self._nodes_read(images, reporter))
        try:
            self._stored.append((value, ray.put(value)))
        finally:
            pickled_by_value.reset(token)
        return self._stored[-1][1]

    def _nodes_read(self, images: Iterable[ImageSet], reporter: Reporter | None) -> bool:
        """Whether workers have the mapped images in the cache of their machine, after this call.

        Raises:
            UserError: a node has no access to the object store of the images.
        """
        origins = [one.origin for one in images if one.origin is not None]
        if self._address is None or not origins:
            return True
        reason = node_without_images(origins, self._resources, self._cached)
        place = origins[0].place
        if reason and "://" in place:
            raise UserError(f"{reason}; all nodes read the images there: give each node the credentials")
        if reason and reporter:
            reporter.line(f"images are sent through Ray: not all nodes read them from {place} ({reason})")
        return not reason

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
        self._start()
        scheduler = _asha(asha, epochs)
        dataset = self._put(context.dataset, context.dataset.splits.values(), context.reporter)
        shared = (dataset, context.checkpoints, epochs, self.device, self._threads)
        jobs = [Job(plan.trial_id, _train, (plan, *shared), scheduler) for plan in plans]
        with phase_progress(plans, epochs, context, name) as progress:

            def on_report(trial_id: str, report: Mapping[str, Any]) -> None:
                if "epoch" in report:
                    progress.advance(trial_id, Epoch(**{one.name: report[one.name] for one in fields(Epoch)}))

            def on_end(trial_id: str, error: BaseException | None) -> None:
                if error is not None:
                    progress.fail(trial_id, _failure(error))

            errors = self._pool.run(jobs, on_report=on_report, on_end=on_end)
        for error in errors.values():
            refuse_lost_storage(error)
        return progress.failures

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
        # A worker keeps its networks, and Tune gives the first job to the worker that has been free for longest. So a
        # network that was ready first comes first. Of new networks int8 comes first, because int8 takes longest.
        order = sorted(missing, key=lambda network: (self._traced.get(network, -1), network[1] == "fp32"))
        networks = {"-".join(network): network for network in order}
        images = self._put(splits, [split.images for split in splits.values()])
        jobs = [
            Job(key, trace_job, (self._threads, self._put(traces), *network, missing[network], images))
            for key, network in networks.items()
        ]

        def on_end(key: str, error: BaseException | None) -> None:
            if error is not None:
                raise _refusal(error, f"the trace of {networks[key][0]} at {networks[key][1]}")
            self._traced[networks[key]] = len(self._traced)
            on_done(networks[key])

        self._pool.run(jobs, on_end=on_end)

    def measure(self, network: Network, points: OperatingPointsSpec, profile: Location, traces: TraceStore) -> None:
        """See :meth:`Executor.measure`."""
        self._start()
        arguments = (self._threads, self._put(traces), *network, points, profile)
        for error in self._pool.run([Job("measure", measure_job, arguments)]).values():
            raise _refusal(error, f"the cost profile of {network[0]} at {network[1]}")

    def close(self) -> None:
        """End the workers."""
        self._pool.close()
        self._stored.clear()


_MEMORY = re.compile(r"Memory on the node .*? was ([\d.]+) ?GB used / ([\d.]+) ?GB limit", re.DOTALL)


def _failure(error: BaseException) -> Failure:
    """The reason of a failed job. Where the memory monitor of Ray ended the worker, the reason is the memory."""
    if memory := _MEMORY.search(str(error)):
        used, limit = (float(one) for one in memory.groups())
        reason = (
            f"its worker was ended for lack of memory: {used:.1f} of {limit:.1f} GB of the node were in use; "
            "train fewer trials at once (a higher resources.cpus_per_trial), or take smaller batches"
        )
        return Failure(reason, worker_died=True)
    died = isinstance(error, RayError) and not isinstance(error, RayTaskError)
    return Failure(f"its worker died: {last_line(error)}" if died else last_line(error), died)


def _refusal(error: BaseException, what: str) -> UserError:
    refuse_lost_storage(error)
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, UserError):
        return UserError(str(cause))
    return UserError(f"{what}: {_failure(error).error}; the same command goes on from here")


def _train(
    plan: TrialPlan, dataset: Dataset, checkpoints: Location, epochs: int, device: torch.device, threads: int
) -> None:
    train_job(plan, dataset, checkpoints, epochs, device, threads, lambda epoch: tune.report(asdict(epoch)))


def _fast_precision(device: torch.device) -> None:
    tune.report({"precision": fast_precision(device)})


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
