"""The executor: where trials are trained, networks are traced, and costs are measured.

A study talks to the protocol :class:`Executor`. ``execution.local`` works in this process, ``execution.ray`` on a Ray
cluster. Both leave the same files in the run folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch

from results.storage.paths import Location
from search_spaces.spec import OperatingPointsSpec, ResourcesSpec, SchedulerSpec
from study.checkpoints.description import WeightsId
from study.data.settings import Dataset, ImageSet
from study.errors import UserError
from study.execution.failures import Failure, FailureLog
from study.execution.trial_plan import TrialPlan
from study.networks.precisions import Precision
from study.progress import Reporter, Task
from study.traces.store import TraceStore
from study.traces.trace import SplitLogits

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
        """Compute traces and write the traces to the run folder.

        Args:
            missing: the splits on which each network is traced.
            splits: the images of each split.
            traces: where the traces are written.
            on_done: called after all splits of a network.

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


class EpochProgress:
    """The progress of several trials: the sum of their epochs."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._epochs: dict[str, int] = {}

    def advance(self, trial_id: str, epoch: int, score: float) -> None:
        """Report that a trial has finished an epoch."""
        self._epochs[trial_id] = epoch
        self._task.advance(sum(self._epochs.values()), f"{trial_id} validation score {score:.4f}")


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
    for network in networks:
        for split, named in splits.items():
            stored = traces.find(*network, split, named.digest)
            if stored is None:
                missing.setdefault(network, []).append(split)
            else:
                found[network, split] = stored
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
            stored = traces.find(*network, split, splits[split].digest)
            if stored is None:
                raise UserError(
                    f"the trace of {network[0]} at {network[1]} on {split} was written, but is not in {traces.traces}: "
                    "do all nodes share this storage, and do all nodes compute int8 in the same way?"
                )
            found[network, split] = stored
    return found
