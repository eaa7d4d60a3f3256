"""The executor: where trials are trained, networks are traced, and costs are measured.

A study talks to the protocol :class:`Executor`. ``execution.local`` works in this process, ``execution.ray`` on a Ray
cluster. Both leave the same files in the run folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import torch

from results.storage.paths import Location
from search_spaces.spec import OperatingPointsSpec, ResourcesSpec, SchedulerSpec
from study.checkpoints.description import WeightsId
from study.data.settings import Dataset, ImageSet
from study.errors import UserError
from study.execution.failures import Failure, FailureLog
from study.execution.trial_log import NoLog, TrialLog
from study.execution.trial_plan import TrialPlan
from study.networks.precisions import Precision
from study.progress import Reporter, Task
from study.traces.store import TraceStore
from study.traces.trace import SplitLogits
from study.training.learning_curves import Epoch

Network: TypeAlias = tuple[WeightsId, Precision]
"""A network: weights, and the precision at which the network runs."""


@dataclass(frozen=True, kw_only=True)
class NamedImages:
    """The images of a split with the digest that names the images."""

    images: ImageSet
    digest: str


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """What all trials of a study on one data set share."""

    checkpoints: Location
    """Absolute; every machine that trains reads and writes this folder."""
    dataset: Dataset
    reporter: Reporter
    log: TrialLog = field(default_factory=NoLog)

    @property
    def failures(self) -> FailureLog:
        """The failures of the run folder."""
        return FailureLog(self.checkpoints.parent / "failures.json")


class Executor(Protocol):
    """Runs trials, traces and measurements, each with the resources of a trial."""

    @property
    def device(self) -> torch.device:
        """The kind of device that each job gets."""
        ...

    def fast_precision(self) -> Literal["fp32", "bf16"]:
        """The precision that ``auto`` means on the machines that train.

        Raises:
            UserError: no machine is large enough for a job, or the cluster is gone.
        """
        ...

    def train(
        self,
        plans: Sequence[TrialPlan],
        epochs: int,
        context: TrainingContext,
        *,
        name: str,
        asha: SchedulerSpec | None = None,
    ) -> dict[str, Failure]:
        """Train trials, each from its own last checkpoint.

        Args:
            plans: the trials that are not finished at this budget.
            epochs: the budget, counted from the very first start of each trial.
            context: the images and the run folder.
            name: of the phase, for the progress.
            asha: stop weak trials asynchronously.

        Returns:
            Trial id -> reason, of the trials that failed more than ``max_failures`` times.

        Raises:
            UserError: no machine is large enough, the run folder cannot be written any more, or the cluster is gone.
        """
        ...

    def trace(
        self,
        missing: Mapping[Network, Sequence[str]],
        splits: Mapping[str, NamedImages],
        traces: TraceStore,
        *,
        on_done: Callable[[Network], None],
    ) -> None:
        """Write the traces of networks on the splits that each misses; ``on_done`` follows the last of a network.

        Raises:
            UserError: a trace could not be computed.
        """
        ...

    def measure(self, network: Network, points: OperatingPointsSpec, profile: Location, traces: TraceStore) -> None:
        """Measure what a network costs, and write the cost profile.

        Raises:
            UserError: the network could not be measured.
        """
        ...

    def close(self) -> None:
        """End the workers."""
        ...


def device_of(resources: ResourcesSpec) -> torch.device:
    """The kind of device that trials, traces and measurements of a study get."""
    return torch.device("cuda" if resources.gpus_per_trial else "cpu")


def threads_of(resources: ResourcesSpec) -> int:
    """The number of threads with which torch computes in each job."""
    return max(1, int(resources.cpus_per_trial))


class PhaseProgress:
    """What the trials of a phase report: epochs, for the progress, and failures, for the run folder."""

    def __init__(self, plans: Sequence[TrialPlan], context: TrainingContext, task: Task) -> None:
        self.failures: dict[str, Failure] = {}
        self._plans = {plan.trial_id: plan for plan in plans}
        self._failures, self._log, self._task = context.failures, context.log, task
        self._epochs: dict[str, int] = {}

    def advance(self, trial_id: str, epoch: Epoch) -> None:
        """Report that a trial has finished an epoch."""
        self._epochs[trial_id] = epoch.epoch
        self._task.advance(sum(self._epochs.values()), f"{trial_id} validation score {epoch.score:.4f}")
        self._log.report(self._plans[trial_id], epoch)

    def fail(self, trial_id: str, failure: Failure) -> None:
        """Report that a trial has failed for good."""
        self.failures[trial_id] = failure
        with suppress(OSError):  # the next file that is written reports a full disk
            self._failures.add(self._plans[trial_id], failure.error)
        self._log.fail(self._plans[trial_id])


@contextmanager
def phase_progress(
    plans: Sequence[TrialPlan], epochs: int, context: TrainingContext, name: str
) -> Iterator[PhaseProgress]:
    """Report the progress of a phase; arguments as of :meth:`Executor.train`. Earlier failures are forgotten."""
    context.failures.forget(plan.trial_id for plan in plans)
    with context.reporter.task(name, len(plans) * epochs) as task:
        yield PhaseProgress(plans, context, task)


def trace_networks(
    networks: Sequence[Network],
    splits: Mapping[str, NamedImages],
    traces: TraceStore,
    executor: Executor,
    reporter: Reporter,
) -> dict[tuple[Network, str], SplitLogits]:
    """The traces of some networks on some splits; the executor computes the missing traces.

    Returns:
        (network, split) -> trace.

    Raises:
        UserError: a trace could not be computed.
    """
    found: dict[tuple[Network, str], SplitLogits] = {}
    missing: dict[Network, list[str]] = {}

    def find(network: Network, split: str) -> bool:
        stored = traces.find(*network, split, splits[split].digest)
        if stored is not None:
            found[network, split] = stored
        return stored is not None

    for network in networks:
        if names := [split for split in splits if not find(network, split)]:
            missing[network] = names
    if not missing:
        return found
    images = {network: sum(len(splits[split].images) for split in names) for network, names in missing.items()}
    with reporter.task("traces", sum(images.values())) as task:
        done: list[Network] = []

        def advance(network: Network) -> None:
            done.append(network)
            task.advance(sum(images[one] for one in done), f"{network[0].trial_id} {network[1]}")

        executor.trace(missing, splits, traces, on_done=advance)
    for network, names in missing.items():
        for split in names:
            if not find(network, split):
                raise UserError(
                    f"the trace of {network[0]} at {network[1]} on {split} was written, but is not in {traces.traces}: "
                    "do all nodes share this storage, and do all nodes compute int8 in the same way?"
                )
    return found
