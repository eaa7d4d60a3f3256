"""The executor of this process: one job after the other, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch

from results.storage.paths import Location
from search_spaces.spec import OperatingPointsSpec, ResourcesSpec, SchedulerSpec
from study.errors import UserError
from study.execution.executor import (
    EpochProgress,
    NamedImages,
    Network,
    TrainingContext,
    device_of,
    threads_of,
)
from study.execution.failures import Failure, last_line, refuse_lost_storage
from study.execution.jobs import measure_job, trace_job, train_job
from study.execution.trial_plan import TrialPlan
from study.traces.store import TraceStore
from study.training.learning_curves import Epoch
from study.training.loop import fast_precision


class LocalExecutor:
    """Works in this process, for debuggers, notebooks and tests. Implements :class:`~execution.executor.Executor`."""

    def __init__(self, resources: ResourcesSpec) -> None:
        self._resources = resources

    @property
    def device(self) -> torch.device:
        """The kind of device that each job gets."""
        return device_of(self._resources)

    def fast_precision(self) -> Literal["fp32", "bf16"]:
        """See :meth:`Executor.fast_precision`."""
        return fast_precision(self.device)

    def train(
        self,
        plans: Sequence[TrialPlan],
        epochs: int,
        context: TrainingContext,
        *,
        name: str,
        asha: SchedulerSpec | None = None,
    ) -> dict[str, Failure]:
        """See :meth:`Executor.train`; ASHA stops trials that run at the same time, so that it is refused here."""
        if asha is not None:
            raise UserError("scheduler asha compares trials that run at the same time: leave out --local")
        context.failures.forget(plan.trial_id for plan in plans)
        failures: dict[str, Failure] = {}
        with context.reporter.task(name, len(plans) * epochs) as task:
            progress = EpochProgress(task)
            for plan in plans:
                error = self._train(plan, epochs, context, progress)
                if error is not None:
                    failures[plan.trial_id] = Failure(last_line(error), worker_died=False)
                    context.failures.add(plan, failures[plan.trial_id].error)
        return failures

    def _train(
        self, plan: TrialPlan, epochs: int, context: TrainingContext, progress: EpochProgress
    ) -> Exception | None:
        def on_epoch(row: Epoch) -> None:
            progress.advance(plan.trial_id, row.epoch, row.score)

        for attempt in range(self._resources.max_failures + 1):
            try:
                train_job(
                    plan,
                    context.dataset,
                    context.checkpoints,
                    epochs=epochs,
                    device=self.device,
                    threads=threads_of(self._resources),
                    on_epoch=on_epoch,
                )
            except Exception as error:
                refuse_lost_storage(error)
                if attempt == self._resources.max_failures:
                    return error
            else:
                return None
        return None

    def trace(
        self,
        missing: Mapping[Network, Sequence[str]],
        splits: Mapping[str, NamedImages],
        traces: TraceStore,
        *,
        on_done: Callable[[Network], None],
    ) -> None:
        """See :meth:`Executor.trace`."""
        for network, names in missing.items():
            trace_job(traces, *network, {name: splits[name] for name in names}, threads=threads_of(self._resources))
            on_done(network)

    def measure(self, network: Network, points: OperatingPointsSpec, profile: Location, traces: TraceStore) -> None:
        """See :meth:`Executor.measure`."""
        measure_job(traces, *network, points, profile, threads=threads_of(self._resources))

    def close(self) -> None:
        """Nothing to end."""
