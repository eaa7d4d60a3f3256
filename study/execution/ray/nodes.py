"""The nodes of a Ray cluster: their resources, and whether each node sees the run folder and the images."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from results.storage.atomic import write_atomic
from results.storage.paths import Location, location
from search_spaces.spec import ResourcesSpec
from study.data.settings import Origin
from study.errors import UserError
from study.execution.failures import last_line
from study.execution.ray.connection import start_ray


def check_shared(folder: Location, address: str | None) -> None:
    """Refuse a run folder that some node of the cluster does not see. A local folder is the most frequent mistake.

    Raises:
        UserError: a node does not find the marker that is written here.
    """
    if address is None:
        return
    start_ray(address)
    marker, is_new = folder / f".marker.{uuid.uuid4().hex}", not folder.exists()
    write_atomic(marker, marker.name.encode())
    try:
        nodes = _alive()
        look = ray.remote(num_cpus=0)(_sees)
        there = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
        answers = [look.options(scheduling_strategy=one).remote(str(marker)) for one in there]
        for node, answer in zip(nodes, answers, strict=True):
            try:
                reason = ray.get(answer, timeout=_MARKER_SECONDS)
            except RayError as error:
                # Ray lists a node that died a moment ago.
                reason = last_line(error) if node["NodeID"] in {one["NodeID"] for one in _alive()} else ""
            if reason:
                address = node["NodeManagerAddress"]
                raise UserError(
                    f"{folder}: node {address} of the cluster does not see this folder ({reason}): --storage must be "
                    "one that all nodes share under this name, as a network folder or s3://bucket/folder"
                )
    finally:
        marker.unlink(missing_ok=True)
        if is_new and isinstance(folder, Path):
            with suppress(OSError):  # another process works in the folder by now
                folder.rmdir()


_MARKER_SECONDS = 120.0
"""The time for an answer: a node may have to unpack the program first."""


def node_without_images(origins: Sequence[Origin], resources: ResourcesSpec, cached: set[tuple[str, str]]) -> str:
    """Let each node that can train make its own cache of images; nodes work at the same time.

    Args:
        origins: of the images.
        resources: of a trial.
        cached: the identifier of a node and the entry of images that the node has; those are not asked for again, and
            new ones are added.

    Returns:
        The first node that cannot read the images, and why; empty where all nodes have them.
    """
    make = ray.remote(num_cpus=0)(_make_cache)
    asked = []
    for node in _alive():
        lacking = tuple(one for one in origins if (node["NodeID"], one.entry) not in cached)
        if lacking and _slots(node, resources):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked.append((node, lacking, make.options(scheduling_strategy=there).remote(lacking)))
    for node, lacking, answer in asked:
        try:
            reason = ray.get(answer)
        except RayError as error:
            reason = last_line(error) if node["NodeID"] in {one["NodeID"] for one in _alive()} else ""
        if reason:
            return f"node {node['NodeManagerAddress']}: {reason}"
        cached.update((node["NodeID"], one.entry) for one in lacking)
    return ""


def _make_cache(origins: Sequence[Origin]) -> str:
    """The reason why this node cannot read the images; empty where it has them in its cache now, or in memory."""
    try:
        for origin in origins:
            origin.load()
    except (UserError, OSError) as error:
        return str(error)
    return ""


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _sees(marker: str) -> str:
    """The reason why this node does not see a marker; empty where the node sees the marker."""
    path = location(marker)
    try:
        return "" if path.read_bytes() == path.name.encode() else "it finds another file there"
    except OSError as error:
        return error.strerror or type(error).__name__


def slots_of(address: str | None, resources: ResourcesSpec) -> int:
    """The number of trials that run at once on a cluster."""
    start_ray(address)
    return max(1, int(sum(_slots(node, resources) for node in _alive())))


def _slots(node: dict[str, Any], resources: ResourcesSpec) -> float:
    """The number of trials that run at once on a node."""
    found = node["Resources"]
    slots: float = found.get("CPU", 0) // resources.cpus_per_trial
    if resources.gpus_per_trial:
        slots = min(slots, found.get("GPU", 0) // resources.gpus_per_trial)
    return slots


def refuse_impossible(resources: ResourcesSpec) -> None:
    """Refuse trials that fit on no node: the trials would wait for ever."""
    nodes = [node["Resources"] for node in _alive()]
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
