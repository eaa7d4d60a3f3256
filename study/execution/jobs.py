"""The jobs of a study: what a worker does, in this process or on a node of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from results.storage.paths import Location
from search_spaces.spec import OperatingPointsSpec
from study.checkpoints.description import WeightsId
from study.checkpoints.tensors import read_best
from study.costs.flops import work_of
from study.data.settings import Dataset
from study.execution.executor import NamedImages
from study.execution.trial import run_trial
from study.execution.trial_plan import TrialPlan
from study.networks.precisions import Precision
from study.search.cost_source import measure
from study.traces.store import TraceStore
from study.training.learning_curves import Epoch
from study.training.loop import forbid_tf32, pick_device


@contextmanager
def prepared(device: torch.device, threads: int) -> Iterator[torch.device]:
    """The device of a job, while torch computes with a number of threads and fp32 means fp32.

    Raises:
        UserError: the device does not exist here.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    forbid_tf32()
    try:
        yield pick_device(device.type)
    finally:
        torch.set_num_threads(before)


def train_job(
    plan: TrialPlan,
    dataset: Dataset,
    checkpoints: Location,
    epochs: int,
    device: torch.device,
    threads: int,
    on_epoch: Callable[[Epoch], None],
) -> None:
    """Train a trial up to a budget of epochs; ``on_epoch`` is called with each epoch."""
    with prepared(device, threads) as here:
        run_trial(plan, dataset, checkpoints, epochs=epochs, device=here, on_epoch=on_epoch)


def trace_job(
    threads: int,
    traces: TraceStore,
    weights: WeightsId,
    precision: Precision,
    names: Sequence[str],
    splits: Mapping[str, NamedImages],
) -> None:
    """Trace a network on some of the splits."""
    with prepared(traces.device, threads):
        for name in names:
            traces.get(weights, precision, name, splits[name].images, splits[name].digest)


def measure_job(
    threads: int,
    traces: TraceStore,
    weights: WeightsId,
    precision: Precision,
    points: OperatingPointsSpec,
    profile: Location,
) -> None:
    """Measure what a network costs here, and write the profile."""
    checkpoint, _ = read_best(traces.checkpoints, weights)
    work = work_of(checkpoint.network, checkpoint.data)
    with prepared(traces.device, threads):
        measure(points, work, precision, traces.network(weights, precision), profile, device=traces.device)
