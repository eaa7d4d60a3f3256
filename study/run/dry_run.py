"""What ``run`` would do, and about how long it would take: ``run --dry-run``. Nothing is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch

from search_spaces.settings import Mode
from search_spaces.spec import StudySpec
from study.costs.flops import count_work
from study.data.settings import Dataset, ImageSet
from study.execution.executor import device_of, threads_of
from study.execution.jobs import prepared
from study.execution.trial_plan import TrialPlan
from study.networks.construction import new_network
from study.run.folder import read_study_file, refuse_other_images
from study.run.plan import plan_trials
from study.run.planned import planned_trials
from study.run.progress_estimate import outline, seconds_left, slots_here
from study.run.run import RunContext, executor_of
from study.run.status import trial_statuses
from study.run.study_plan import make_plan
from study.training.loop import train

_PROBED_BATCHES = 3


def dry_run(spec: StudySpec, where: RunContext, *, extend: bool) -> dict[str, Any]:
    """Check a study as ``run`` would; returns what ``run`` would train and about how long the training takes.

    Epochs that were trained tell how long others take; where there are none, the largest network of each half of phase
    1, in each mode, is trained for a few batches on this machine, and the others are reckoned by their FLOPs.

    Raises:
        UserError: as ``run``.
    """
    with closing(executor_of(spec, where)) as executor:
        plan = make_plan(spec, where, executor, extend=extend)
    spec, datasets, digests = plan.spec, plan.datasets, plan.digests
    stored = read_study_file(where.folder)
    refuse_other_images(where.folder, stored, digests)
    trials = planned_trials(spec, digests, trial_statuses(where.folder, stored)) if stored else []
    plans = {name: _plans(spec, dataset) for name, dataset in datasets.items()}
    phases = outline(spec, trials)
    measured: dict[tuple[str, str], float] = {}
    for phase in phases:
        if phase.seconds_per_epoch is None and phase.epochs_left:
            probed = plans[phase.data][phase.phase]
            measured[phase.data, phase.phase] = _seconds_per_epoch(probed, datasets[phase.data], spec)
    phases = outline(spec, trials, measured)
    slots = slots_here(spec.resources)
    if where.address is not None:
        from study.execution.ray.nodes import slots_of

        slots = slots_of(where.address, spec.resources)
    left = seconds_left(phases, slots)
    started = {trial["trial_id"] for trial in trials}
    rows = [
        {
            "trial_id": plan.trial_id,
            "data": name,
            "started": plan.trial_id in started,
            **{key: value for key, value in plan.settings.items() if _varies(key, own["backbones"])},
        }
        for name, own in plans.items()
        for plan in own["backbones"]
    ]
    points = spec.operating_points
    return {
        "folder": str(where.folder),
        "new": stored is None,
        "images": plan.image_counts(),
        "grows": [str(one) for one in plan.grown],
        "trials_at_once": slots,
        "phases": [phase.plain() for phase in phases],
        "backbones": rows,
        "searched": {
            "networks": points.networks,
            "precisions": [str(name) for name in points.quantization.values],
            "operating_points": "all of the exact front" if points.search == "exact" else points.trials,
        },
        "training_seconds_left": left,
    }


def _plans(spec: StudySpec, dataset: Dataset) -> dict[str, list[TrialPlan]]:
    """Backbones, and the exit heads as they would stand on the first of them."""
    backbones = plan_trials(spec, "backbones", dataset.info.digest)
    networks = dict.fromkeys(plan.network for plan in backbones)
    exits = [plan for one in networks for plan in plan_trials(spec, "exits", dataset.info.digest, backbone=one)]
    return {"backbones": backbones, "exits": exits}


def _varies(key: str, plans: Sequence[TrialPlan]) -> bool:
    return len({plan.settings[key] for plan in plans}) > 1


def _seconds_per_epoch(plans: Sequence[TrialPlan], dataset: Dataset, spec: StudySpec) -> float:
    """Of the mean trial: in each mode the largest network is timed, the others cost as their FLOPs."""
    flops = {
        plan.network: float(count_work(new_network(plan.network, dataset.info, 0)).segment_flops.sum())
        for plan in plans
    }
    largest: dict[Mode, TrialPlan] = {}
    for plan in sorted(plans, key=lambda plan: flops[plan.network]):
        largest[plan.training.mode] = plan
    device = device_of(spec.resources) if torch.cuda.is_available() else torch.device("cpu")
    with prepared(device, threads_of(spec.resources)) as here:
        rates = {mode: _probe(plan, dataset, here) / flops[plan.network] for mode, plan in largest.items()}
    return float(np.mean([rates[plan.training.mode] * flops[plan.network] for plan in plans]))


def _probe(plan: TrialPlan, dataset: Dataset, device: torch.device) -> float:
    """Seconds of a whole epoch by those of a short one."""
    size = min(len(dataset.train.labels), _PROBED_BATCHES * plan.training.batch_size)
    part = dataclasses.replace(
        dataset, train=_first(dataset.train, size), validation=_first(dataset.validation, max(1, size // 4))
    )
    network = new_network(plan.network, dataset.info, 0).to(device)
    history = train(network, part, dataclasses.replace(plan.training, patience=None), epochs=2)
    # The first epoch pays for what happens once. Validation costs a third of training an image.
    images = size + len(part.validation.labels) / 3
    whole = len(dataset.train.labels) + len(dataset.validation.labels) / 3
    return history[-1].seconds * whole / images


def _first(images: ImageSet, count: int) -> ImageSet:
    return ImageSet(images=images.images[:count], labels=images.labels[:count])
