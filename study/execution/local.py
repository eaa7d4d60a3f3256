"""The executor of this process: one job after the other, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from results.storage.paths import Location
from search_spaces.spec import OperatingPointsSpec, ResourcesSpec, SchedulerSpec
from study.errors import UserError
from study.execution.executor import (
    NamedImages,
    Network,
    PhaseProgress,
    TrainingContext,
    device_of,
    phase_progress,
    threads_of,
)
from study.execution.failures import Failure, last_line, refuse_lost_storage
from study.execution.jobs import measure_job, trace_job, train_job
from study.execution.trial_plan import TrialPlan
from study.traces.store import TraceStore
from study.training.loop import fast_precision


class LocalExecutor:
    """Works in this process, for debuggers, notebooks and tests. Implements :class:`~execution.executor.Executor`."""

    def __init__(self, resources: ResourcesSpec) -> None:
        self._resources, self._threads = resources, threads_of(resources)
        self.device = device_of(resources)

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
        with phase_progress(plans, epochs, context, name) as progress:
            for plan in plans:
                self._train(plan, epochs, context, progress)
        return progress.failures

    def _train(self, plan: TrialPlan, epochs: int, context: TrainingContext, progress: PhaseProgress) -> None:
        for attempts_left in reversed(range(self._resources.max_failures + 1)):
            try:
                return train_job(
                    plan,
                    context.dataset,
                    context.checkpoints,
                    epochs,
                    self.device,
                    self._threads,
                    lambda epoch: progress.advance(plan.trial_id, epoch),
                )
            except Exception as error:
                refuse_lost_storage(error)
                if not attempts_left:
                    progress.fail(plan.trial_id, Failure(last_line(error), worker_died=False))

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
            trace_job(self._threads, traces, *network, names, splits)
            on_done(network)

    def measure(self, network: Network, points: OperatingPointsSpec, profile: Location, traces: TraceStore) -> None:
        """See :meth:`Executor.measure`."""
        measure_job(self._threads, traces, *network, points, profile)

    def close(self) -> None:
        """Nothing to end."""
