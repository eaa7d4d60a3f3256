"""The plan of a start: a study with its names, sizes, trials and images resolved, before anything is written.

Making the plan checks every name and value. ``run`` executes the plan; ``run --dry-run`` prints the plan in plain
values, with an estimate of the time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from results.storage.paths import Location
from search_spaces.settings import Mode
from search_spaces.spec import OperatingPointsSpec, ResourcesSpec, StudySpec
from study.checkpoints.initial import fit_initial, initial_id
from study.checkpoints.pretrained import check_fit, load_pretrained
from study.costs.flops import work_of
from study.costs.model.devices import Device
from study.data.loading import count_test_images, load_dataset
from study.data.settings import Dataset, DataSettings, ImageSet, resolve
from study.errors import UserError
from study.execution.executor import Executor, device_of, threads_of
from study.execution.jobs import prepared
from study.execution.reached import refuse_few_images
from study.execution.trial_log import check_loggers
from study.execution.trial_plan import TrialPlan
from study.networks.construction import check_network, described_network, meta_network, new_network
from study.networks.own_code import digest_of, is_own
from study.networks.quantization import check_precision
from study.networks.registry import usual_image_size
from study.progress import Reporter
from study.run.folder import (
    STUDY_FILE,
    Difference,
    read_study_file,
    recorded_precisions,
    refuse_other_images,
    refuse_other_study,
)
from study.run.initial_weights import starting_weights
from study.run.status import outline, seconds_left, slots_here, trial_statuses
from study.run.trials import PHASES, StudyTrials, draw_trials, planned_trials
from study.search.cost_source import check_costs, check_slack
from study.search.exact_search import check_covered
from study.search.space import check_depth, check_names
from study.storage.home import user_path
from study.storage.publish import check_writable
from study.training.loop import train
from study.training.optimizer import frozen_segments

_PROBED_BATCHES = 3


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Where a study runs. No field changes the results of the study."""

    folder: Location
    data_root: Path
    download: bool = False
    address: str | None = None
    """Of a running Ray cluster; None starts Ray on this machine."""
    local: bool = False
    """Work in this process, one job after the other, without Ray."""
    reporter: Reporter

    @property
    def tables(self) -> Location:
        """The tables of the run folder."""
        return self.folder / "tables"

    @property
    def checkpoints(self) -> Location:
        """The checkpoints of the run folder."""
        return self.folder / "checkpoints"


@dataclass(frozen=True, kw_only=True)
class DatasetPlan:
    """A data set of a study."""

    settings: DataSettings
    """Resolved."""
    dataset: Dataset
    test_images: int
    """The number of test images. The plan holds no test image."""

    @property
    def image_counts(self) -> dict[str, int]:
        """The number of classes, and of images of each split."""
        return {**self.dataset.image_counts, "test": self.test_images}


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """A study that can start in its run folder."""

    spec: StudySpec
    """The study as the run folder records the study; the precision ``auto`` is resolved."""
    trials: StudyTrials
    datasets: Mapping[str, DatasetPlan]
    """By name."""
    cost_table: Device
    """The device table that models the costs of phase 2, or counts the operations where costs are measured."""
    own_weights: Mapping[str, Tensor] | None
    """The user's own weights, which take the place of the backbones."""
    initial: Mapping[str, Tensor] | None
    """The weights that the backbones start from."""
    grown: tuple[Difference, ...]
    """In what the study is larger than the study that the run folder holds."""

    @property
    def digests(self) -> dict[str, str]:
        """Data set -> digest of its images."""
        return {name: one.dataset.info.digest for name, one in self.datasets.items()}


def make_plan(spec: StudySpec, where: RunContext, executor: Executor, *, extend: bool) -> StudyPlan:
    """Resolve all names of a study, check all values, and load its images. Nothing is written.

    ``executor`` is asked what the precision ``auto`` means; ``extend``: the run folder may hold a smaller study.

    Raises:
        UserError: a name or value that the program does not know, images that are missing or damaged, or a run folder
            that holds another study or cannot be written.
    """
    check_loggers(spec.logging, where.folder, os.environ)
    spec = with_own_code(spec)
    all_settings, trials, table = resolve_names(spec)
    with _named(spec.name):
        initial = starting_weights(spec, where.folder, download=where.download, reporter=where.reporter)
    if initial is not None:
        changes = {"initial_digest": initial_id(initial).digest}
        spec = spec.model_copy(update={"backbones": spec.backbones.model_copy(update=changes)})
    own_path = user_path(trials.pretrained) if trials.pretrained else None
    own_weights = load_pretrained(own_path)[1] if own_path else None
    check_writable(where.folder)
    spec, kept = resolve_precision(spec, recorded_precisions(where.folder), executor)
    trials = draw_trials(spec)  # the same draw, with the resolved precision
    grown = refuse_other_study(spec.plain(), where.folder, extend=extend)
    for told in kept:
        where.reporter.line(told)
    # A damaged test image is reported now, not after the training. A later start need not read the test images again.
    new = extend or not (where.folder / STUDY_FILE).is_file()
    datasets = {one.name: _dataset_plan(one, where, check_test=new) for one in all_settings}
    points = spec.operating_points
    exits = trials.exits_on_each(trials.backbones.plans)
    networks = {plan.network for plan in exits}
    for planned in datasets.values():
        info = planned.dataset.info
        with _named(spec.name):  # the costs of a network are known before the network is trained
            check_slack(points, table, (work_of(one, info) for one in networks))
            for plan in exits:
                refuse_few_images(plan.training, planned.dataset)
        if own_path and own_weights is not None:
            check_fit(own_path, own_weights, trials.backbones.plans[0].network, info)
        if initial is not None:
            name = str(spec.backbones.initial)
            shapes = [meta_network(one, info) for one in {plan.network for plan in trials.backbones.plans}]
            adapted = [line for one in shapes for line in fit_initial(name, one, initial).changes]
            for line in dict.fromkeys(adapted):
                where.reporter.line(line)
    return StudyPlan(
        spec=spec,
        trials=trials,
        datasets=datasets,
        cost_table=table,
        own_weights=own_weights,
        initial=initial,
        grown=tuple(grown),
    )


def _dataset_plan(settings: DataSettings, where: RunContext, *, check_test: bool) -> DatasetPlan:
    dataset = load_dataset(settings, where.data_root, download=where.download, check_test=check_test)
    test_images = dataset.test_images
    if test_images is None:
        test_images = count_test_images(settings, where.data_root, download=where.download)
    return DatasetPlan(settings=settings, dataset=dataset, test_images=test_images)


def with_own_code(spec: StudySpec) -> StudySpec:
    """The study with the digests of the files of the user's own backbones.

    Raises:
        UserError: a file is missing.
    """
    own = [str(one) for one in spec.choices("backbones")["backbone"].values if is_own(str(one))]
    with _named(spec.name):
        code = {one.partition(":")[0]: digest_of(one) for one in own} or None
    return spec.model_copy(update={"backbones": spec.backbones.model_copy(update={"code": code})})


def resolve_names(spec: StudySpec) -> tuple[list[DataSettings], StudyTrials, Device]:
    """Resolve every name of a study and draw its trials, before any image is read.

    Returns:
        The settings of the data sets, the trials, and the device table that costs are computed with.

    Raises:
        UserError: a name or value that the program does not know.
    """
    points = spec.operating_points
    with _named(spec.name):
        table = _check_search(points, spec.resources)
    all_settings = [data_settings(spec, name) for name in spec.data.names]
    trials = draw_trials(spec)
    backbones = trials.backbones.plans
    networks = {plan.network for plan in (*backbones, *trials.exits_on_each(backbones))}
    depth = min(check_network(network, settings) for network in networks for settings in all_settings)
    for plan in (*backbones, *trials.exits_on_each(backbones)):
        if plan.training.frozen_to is not None:
            for settings in all_settings:
                frozen_segments(described_network(plan.network, settings), plan.training)
    with _named(spec.name):
        check_depth(points, depth)
        if trials.pretrained:
            if len(backbones) != 1:
                raise UserError(
                    f"backbones.pretrained needs one backbone and one width, not {len(backbones)} trials: "
                    "--set backbones.trials=1 --set backbones.width=..."
                )
            if not user_path(trials.pretrained).exists():
                raise UserError(f"backbones.pretrained: {user_path(trials.pretrained)} does not exist")
    return all_settings, trials, table


def data_settings(spec: StudySpec, name: str) -> DataSettings:
    """The resolved settings of one of the data sets of a study.

    Raises:
        UserError: the data set is unknown, or a value is not allowed.
    """
    asked = {**spec.data.model_dump(), "name": name, "certification": spec.certification}
    if asked["image_size"] is None:
        backbones = spec.choices("backbones")["backbone"]
        with _named(spec.name):
            asked["image_size"] = usual_image_size([str(one) for one in backbones.values])
    if len(spec.data.names) > 1 and name != "image_folder":
        asked |= {"folder": None, "table": None}  # they are those of image_folder
    return resolve(DataSettings(seed=spec.seed, **asked))


def resolve_precision(spec: StudySpec, recorded: Mapping[str, str], executor: Executor) -> tuple[StudySpec, list[str]]:
    """The study with a precision in place of ``auto``, so that one trial never mixes two precisions.

    The first start asks the machines that train. A later start takes the precision that the run folder records
    (``recorded``: phase -> precision). The lines say where these machines would have meant the other one.

    Raises:
        UserError: the cluster is gone, or no machine of the cluster is large enough for a trial.
    """
    phases = [phase for phase in PHASES if getattr(spec, phase).precision == "auto"]
    if not phases:
        return spec, []
    here = executor.fast_precision()
    changes: dict[str, Any] = {}
    lines = []
    for phase in phases:
        precision = recorded.get(phase, here)
        if precision != here:
            lines.append(f"{phase}: precision auto stays {precision}, as recorded; {here} would be fast here")
        changes[phase] = getattr(spec, phase).model_copy(update={"precision": precision})
    return spec.model_copy(update=changes), lines


@contextmanager
def _named(study: str) -> Iterator[None]:
    """Put the name of the study before an error of the user."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{study}: {error}") from None


def _check_search(points: OperatingPointsSpec, resources: ResourcesSpec) -> Device:
    """Check the names, precisions and costs of phase 2; returns the device table of its costs."""
    device = device_of(resources)
    at_hand = device.type == "cpu" or torch.cuda.is_available()  # the driver of a cluster may have no GPU
    check_names(points)
    precisions = [check_precision(str(name), device if at_hand else None) for name in points.quantization.values]
    stored_will_do = resources.profiles_of_other_device or not at_hand
    table = check_costs(points, precisions, device, stored_will_do=stored_will_do)
    check_covered(points)
    return table


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
    slots = 1 if where.local else slots_here(plan.spec.resources)
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
        "notes": {name: list(one.dataset.notes) for name, one in plan.datasets.items()},
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
    flops = {plan.network: float(work_of(plan.network, dataset.info).segment_flops.sum()) for plan in plans}
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
    part = replace(dataset, train=_first(dataset.train, size), validation=_first(dataset.validation, max(1, size // 4)))
    network = new_network(plan.network, dataset.info, 0).to(device)
    history = train(network, part, replace(plan.training, patience=None, reach=0.0), epochs=2)
    # The first epoch includes work that happens once. An image takes a third of the time in validation as in training.
    images = size + len(part.validation.labels) / 3
    whole = len(dataset.train.labels) + len(dataset.validation.labels) / 3
    return history[-1].seconds * whole / images


def _first(images: ImageSet, count: int) -> ImageSet:
    return ImageSet(images=images.images[:count], labels=images.labels[:count])
