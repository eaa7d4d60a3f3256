"""The plan of a start in plain values, with an estimate of the time: ``run --dry-run``. Nothing is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from search_spaces.settings import Mode
from search_spaces.spec import ResourcesSpec
from study.costs.flops import count_work
from study.data.settings import Dataset, ImageSet
from study.execution.executor import device_of, threads_of
from study.execution.jobs import prepared
from study.execution.trial_plan import TrialPlan
from study.networks.construction import new_network
from study.run.folder import read_study_file, refuse_other_images
from study.run.plan import StudyPlan
from study.run.run import RunContext
from study.run.status import outline, seconds_left, slots_here, trial_statuses
from study.run.trials import planned_trials
from study.training.loop import train

_PROBED_BATCHES = 3


def dry_run(plan: StudyPlan, where: RunContext) -> dict[str, Any]:
    """What ``run`` would train by a plan, and about how long the training takes.

    The epochs that were trained tell how long other epochs take. Where none was trained, the largest network of each
    half of phase 1, in each mode, is trained for a few batches on this machine; the other networks take time in
    proportion to their FLOPs.

    Raises:
        UserError: the run folder holds results of other images, or cannot be read.
    """
    stored = read_study_file(where.folder)
    refuse_other_images(where.folder, stored, plan.digests)
    started = planned_trials(plan.trials, plan.digests, trial_statuses(where.folder, stored)) if stored else []
    phases = outline(plan.trials, list(plan.datasets), started)
    measured: dict[tuple[str, str], float] = {}
    for phase in phases:
        if phase.seconds_per_epoch is None and phase.epochs_left:
            dataset = plan.datasets[phase.data].dataset
            plans = plan.trials.backbones_on(dataset.info.digest)
            if phase.phase == "exits":
                plans = plan.trials.exits_on_each(plans)
            measured[phase.data, phase.phase] = _seconds_per_epoch(plans, dataset, plan.spec.resources)
    phases = outline(plan.trials, list(plan.datasets), started, measured)
    slots = slots_here(plan.spec.resources)
    if where.address is not None:
        from study.execution.ray.nodes import slots_of

        slots = slots_of(where.address, plan.spec.resources)
    known = {trial["trial_id"] for trial in started}
    rows = [
        {
            "trial_id": one.trial_id,
            "data": name,
            "started": one.trial_id in known,
            **{key: value for key, value in one.settings.items() if _varies(key, plan.trials.backbones.plans)},
        }
        for name, digest in plan.digests.items()
        for one in plan.trials.backbones_on(digest)
    ]
    points = plan.spec.operating_points
    return {
        "folder": str(where.folder),
        "new": stored is None,
        "images": {name: one.image_counts for name, one in plan.datasets.items()},
        "grows": [str(one) for one in plan.grown],
        "trials_at_once": slots,
        "phases": [phase.plain() for phase in phases],
        "backbones": rows,
        "searched": {
            "networks": points.networks,
            "precisions": [str(name) for name in points.quantization.values],
            "operating_points": "all of the exact front" if points.search == "exact" else points.trials,
        },
        "training_seconds_left": seconds_left(phases, slots),
    }


def _varies(key: str, plans: Sequence[TrialPlan]) -> bool:
    return len({plan.settings[key] for plan in plans}) > 1


def _seconds_per_epoch(plans: Sequence[TrialPlan], dataset: Dataset, resources: ResourcesSpec) -> float:
    """Seconds of an epoch of the mean trial: the largest network of each mode is timed, the others follow by FLOPs."""
    flops = {
        plan.network: float(count_work(new_network(plan.network, dataset.info, 0)).segment_flops.sum())
        for plan in plans
    }
    largest: dict[Mode, TrialPlan] = {}
    for plan in sorted(plans, key=lambda plan: flops[plan.network]):
        largest[plan.training.mode] = plan
    device = device_of(resources) if torch.cuda.is_available() else torch.device("cpu")
    with prepared(device, threads_of(resources)) as here:
        rates = {mode: _probe(plan, dataset, here) / flops[plan.network] for mode, plan in largest.items()}
    return float(np.mean([rates[plan.training.mode] * flops[plan.network] for plan in plans]))


def _probe(plan: TrialPlan, dataset: Dataset, device: torch.device) -> float:
    """Seconds of a whole epoch, from the seconds of an epoch on a part of the images."""
    size = min(len(dataset.train.labels), _PROBED_BATCHES * plan.training.batch_size)
    part = dataclasses.replace(
        dataset, train=_first(dataset.train, size), validation=_first(dataset.validation, max(1, size // 4))
    )
    network = new_network(plan.network, dataset.info, 0).to(device)
    history = train(network, part, dataclasses.replace(plan.training, patience=None), epochs=2)
    # The first epoch includes work that happens once. An image takes a third of the time in validation as in training.
    images = size + len(part.validation.labels) / 3
    whole = len(dataset.train.labels) + len(dataset.validation.labels) / 3
    return history[-1].seconds * whole / images


def _first(images: ImageSet, count: int) -> ImageSet:
    return ImageSet(images=images.images[:count], labels=images.labels[:count])
