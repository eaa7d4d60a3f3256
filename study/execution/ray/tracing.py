"""Traces and measurements as Ray tasks: networks run where trials run, with what a trial gets.

Their results are files of the run folder, as those of trials: the driver reads what it needs from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from results.storage.paths import Location
from search_spaces.spec import OperatingPointsSpec
from study.checkpoints.description import WeightsId
from study.checkpoints.tensors import load_best
from study.costs.flops import count_work
from study.data.settings import ImageSet
from study.errors import UserError
from study.execution.ray.connection import start_ray
from study.execution.ray.nodes import last_line, refuse_impossible
from study.execution.ray.tuning import Workshop, refuse_lost_storage
from study.networks.precisions import Precision
from study.progress import Reporter
from study.search.cost_source import price
from study.traces.store import TraceStore
from study.traces.trace import SplitLogits
from study.training.loop import pick_device

Network = tuple[WeightsId, Precision]
"""A network: weights, and the precision at which they run."""


@dataclass(frozen=True, kw_only=True)
class NamedImages:
    """A split with the digest that names its images."""

    images: ImageSet
    digest: str


def trace_networks(
    networks: Sequence[Network], splits: Mapping[str, NamedImages], traces: TraceStore, workshop: Workshop
) -> dict[tuple[Network, str], SplitLogits]:
    """The traces of some networks on some splits; what is missing is computed on the cluster.

    Returns:
        (network, split) -> its trace.

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
    total = sum(len(splits[split].images) for of_network in missing.values() for split in of_network)
    if not missing:
        return found
    with workshop.reporter.task("traces", total) as task:
        tasks = _Tasks(workshop)
        # Once each into the object store, whatever the number of tasks.
        store, kept = ray.put(traces), {split: ray.put(named) for split, named in splits.items()}
        waiting = {
            tasks.start(_trace, store, *network, of_network, *(kept[split] for split in of_network)): network
            for network, of_network in missing.items()
        }
        done = 0
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            network = waiting.pop(ready)
            _result_of(ready, f"the trace of {network[0]} at {network[1]}")
            done += sum(len(splits[split].images) for split in missing[network])
            task.advance(done, f"{network[0].trial_id} {network[1]}")
    for network, of_network in missing.items():
        for split in of_network:
            stored = traces.find(*network, split, splits[split].digest)
            if stored is None:
                raise UserError(
                    f"the trace of {network[0]} at {network[1]} on {split} is not in {traces.traces}, though it was "
                    "written: do all nodes share this storage, and compute int8 alike?"
                )
            found[network, split] = stored
    return found


def measure_network(
    network: Network, points: OperatingPointsSpec, profile_path: Location, traces: TraceStore, workshop: Workshop
) -> None:
    """Measure what a network costs on a node of the cluster, and write the profile.

    Raises:
        UserError: it could not be measured.
    """
    task = _Tasks(workshop).start(_measure, ray.put(traces), *network, points, profile_path)
    _result_of(task, f"the cost profile of {network[0]} at {network[1]}")


class _Tasks:
    """Starts tasks with the resources of a trial."""

    def __init__(self, workshop: Workshop) -> None:
        start_ray(workshop.address)
        refuse_impossible(workshop.resources)
        self.resources = workshop.resources

    def start(self, function: Any, *arguments: Any) -> Any:
        cpus, gpus = self.resources.cpus_per_trial, self.resources.gpus_per_trial
        # A worker that dies is no fault of the task; one that dies every time is.
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 1 + self.resources.max_failures}
        return ray.remote(function).options(**options).remote(cpus, *arguments)


def _result_of(task: Any, what: str) -> Any:
    try:
        return ray.get(task)
    except RayTaskError as error:
        refuse_lost_storage(error)
        cause = error.cause
        raise UserError(str(cause) if isinstance(cause, UserError) else f"{what}: {last_line(str(error))}") from None
    except RayError as error:
        raise UserError(f"{what}: {last_line(str(error))}; the same command goes on from here") from None


def _trace(
    cpus: float,
    traces: TraceStore,
    weights: WeightsId,
    precision: Precision,
    splits: Sequence[str],
    *images: NamedImages,
) -> None:
    torch.set_num_threads(max(1, int(cpus)))
    pick_device(traces.device.type)
    for split, named in zip(splits, images, strict=True):
        traces.get(weights, precision, split, named.images, named.digest)


def _measure(
    cpus: float,
    traces: TraceStore,
    weights: WeightsId,
    precision: Precision,
    points: OperatingPointsSpec,
    profile_path: Location,
) -> None:
    torch.set_num_threads(max(1, int(cpus)))
    pick_device(traces.device.type)
    network, _ = load_best(traces.checkpoints, weights, torch.device("cpu"))
    price(
        points,
        count_work(network),
        precision,
        lambda: traces.network(weights, precision),
        profile_path,
        device_here=traces.device,
        other_device=False,
        reporter=Reporter(quiet=True),
    )
