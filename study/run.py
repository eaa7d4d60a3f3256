"""A study from its file to its front.

Run and resume are one act: what is done is derived from what is there and whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import cast

import pandas as pd
import torch

from results.tables import part_count, read_table, write_part
from search_spaces.spec import StudySpec
from study.checkpoints import check_network, load_pretrained, new_network
from study.costs.flops import count_work
from study.costs.published import published_flops
from study.data import DataInfo, Dataset, DataSettings, load_dataset, load_test_set, resolve
from study.errors import UserError
from study.phases.candidates import Candidate
from study.phases.checks import check_depth, check_names
from study.phases.exact import check_covered
from study.phases.front import cost_rows, front_of, front_on_test, network_exit_rows
from study.phases.operating_points import list_exact_points, search
from study.phases.pretrained import adopt_pretrained, check_pretrained
from study.phases.pricing import check_costs, check_one_source, check_slack, price, with_frequencies
from study.phases.training import Phase, TrialRecord, plan_trials, run_phase
from study.phases.training_tables import write_trials
from study.phases.tuning import Workshop, start_ray
from study.precisions import Precision
from study.progress import Reporter, Task
from study.quantization import check_precision
from study.run_folder import claim_folder, exclusive, refuse_other_study
from study.storage import check_writable, content_hash
from study.stored_traces import SplitLogits, TraceStore, load_best
from study.training import pick_device


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where a study runs: nothing of this changes its results."""

    folder: Path
    data_root: Path
    download: bool = False
    address: str | None = None
    reporter: Reporter

    @property
    def tables(self) -> Path:
        """The tables of the run folder."""
        return self.folder / "tables"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints of the run folder."""
        return self.folder / "checkpoints"


def run_study(spec: StudySpec, where: Surroundings) -> None:
    """Run a study, or go on with it, until its six tables are complete.

    Raises:
        UserError: the study names something that does not exist, the folder holds another study, or all trials of a
            phase failed.
    """
    data_settings = check(spec)
    refuse_other_study(spec, where.folder)
    check_writable(where.folder)
    if where.address:  # a cluster that is not there is told before a folder is made
        start_ray(where.address)
    dataset = load_dataset(data_settings, where.data_root, download=where.download)
    check_deadlines(spec, dataset.info)
    check_pretrained(spec, dataset.info)
    with exclusive(where.folder):
        claim_folder(spec, where.folder, dataset.info.digest)
        _run_phases(spec, where, data_settings, dataset)


def _run_phases(spec: StudySpec, where: Surroundings, data_settings: DataSettings, dataset: Dataset) -> None:
    workshop = Workshop(
        checkpoints=where.checkpoints,
        dataset=dataset,
        resources=spec.resources,
        reporter=where.reporter,
        address=where.address,
    )
    backbones = train_backbones(spec, workshop)
    if not part_count(where.tables, "trials"):  # a later start must not take the exits' rows away meanwhile
        write_trials(where.tables, backbones)
    exits = train_exits(spec, workshop, backbones)
    write_trials(where.tables, [*backbones, *exits])
    traces = TraceStore(where.folder / "traces", where.checkpoints, dataset.calibration, pick_device("auto"))
    candidates = trace_candidates(spec, where, dataset, traces, exits[: spec.operating_points.networks])
    points = search_operating_points(spec, where, candidates)
    finish(spec, where, data_settings, traces, candidates, points)


def check(spec: StudySpec) -> DataSettings:
    """Resolve every name of a study before any work starts; returns the settings of its data set.

    Raises:
        UserError: a name or value that the program does not know.
    """
    points = spec.operating_points
    device = pick_device("auto")
    try:
        check_names(points)
        precisions = [check_precision(str(name), device) for name in points.quantization.values]
        check_costs(points, precisions, device, stored_will_do=spec.resources.profiles_of_other_device)
        check_covered(points)
    except UserError as error:
        raise UserError(f"{spec.name}: {error}") from None
    settings = resolve(DataSettings(seed=spec.seed, **spec.data.model_dump()))
    backbones = plan_trials(spec, "backbones", "")
    networks = {plan.network for plan in backbones}
    exits = [plan for network in networks for plan in plan_trials(spec, "exits", "", backbone=network)]
    depth = min(check_network(network, settings) for network in networks | {plan.network for plan in exits})
    try:
        check_depth(points, depth)
    except UserError as error:
        raise UserError(f"{spec.name}: {error}") from None
    if spec.backbones.pretrained and len(backbones) != 1:
        raise UserError(
            f"{spec.name}: backbones.pretrained needs one backbone and one width, "
            f"not {len(backbones)} trials: --set backbones.trials=1 --set backbones.width=..."
        )
    if spec.backbones.pretrained and not Path(spec.backbones.pretrained).exists():
        raise UserError(f"{spec.name}: backbones.pretrained: {spec.backbones.pretrained} does not exist")
    if spec.backbones.pretrained:
        load_pretrained(Path(spec.backbones.pretrained))
    return settings


def check_deadlines(spec: StudySpec, info: DataInfo) -> None:
    """Refuse a slack that no policy can keep. What a network costs is known before it is trained.

    Raises:
        UserError: it is too small.
    """
    points = spec.operating_points
    if "deadline" not in points.dvfs.values or points.dvfs_slack == "auto":
        return
    backbones = {plan.network for plan in plan_trials(spec, "backbones", "")}
    networks = {plan.network for one in backbones for plan in plan_trials(spec, "exits", "", backbone=one)}
    works = [count_work(new_network(network, info, spec.seed)) for network in networks]
    try:
        check_slack(points, works, [cast(Precision, name) for name in points.quantization.values])
    except UserError as error:
        raise UserError(f"{spec.name}: {error}") from None


def train_backbones(spec: StudySpec, workshop: Workshop) -> list[TrialRecord]:
    """Phase 1a, or the user's own weights in its place."""
    if spec.backbones.pretrained:
        return [adopt_pretrained(spec, workshop)]
    plans = plan_trials(spec, "backbones", workshop.dataset.info.digest)
    return _any_usable(run_phase(plans, spec.backbones, workshop, keep=spec.exits.parents), "backbones")


def train_exits(spec: StudySpec, workshop: Workshop, backbones: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Phase 1b: exit heads on the best backbones; the usable trials, best first."""
    parents = [record for record in backbones if not math.isnan(record.score)][: spec.exits.parents]
    plans = [
        plan
        for parent in parents
        for plan in plan_trials(
            spec,
            "exits",
            workshop.dataset.info.digest,
            backbone=parent.plan.network,
            parent=parent.weights,
        )
    ]
    return _any_usable(run_phase(plans, spec.exits, workshop, keep=spec.operating_points.networks), "exits")


def _any_usable(records: list[TrialRecord], phase: Phase) -> list[TrialRecord]:
    if all(math.isnan(record.score) for record in records):
        error = next((record.error for record in records if record.error), "every trial diverged")
        raise UserError(f"no trial of phase {phase} could be trained: {error}")
    return records


def trace_candidates(
    spec: StudySpec, where: Surroundings, dataset: Dataset, traces: TraceStore, records: Sequence[TrialRecord]
) -> list[Candidate]:
    """Trace the best networks on the calibration and validation splits and cost them, at each precision."""
    points = spec.operating_points
    splits = {"calibration": dataset.calibration, "validation": dataset.validation}
    weights = [str(record.weights) for record in records if not math.isnan(record.score)]
    pairs = [(name, cast(Precision, precision)) for name in weights for precision in points.quantization.values]
    candidates = []
    with where.reporter.task("traces", len(pairs) * sum(len(split.labels) for split in splits.values())) as task:
        done = 0
        for name, precision in pairs:
            logits = {}
            for split, images in splits.items():
                text = f"{name.partition('@')[0]} {precision} {split}"
                logits[split] = traces.get(
                    name,
                    precision,
                    split,
                    lambda images=images: images,  # type: ignore[misc]
                    dataset.info.digest,
                    on_batch=partial(_tell, task, done, text),
                )
                done += len(images.labels)
                task.advance(done, text)
            network, _ = load_best(where.checkpoints, name, torch.device("cpu"))
            work = count_work(network)
            costs = price(
                points,
                work,
                precision,
                partial(traces.network, name, precision),
                where.folder / "profiles" / f"{name.replace('@', '-')}-{precision}-batch{points.batch_size}.json",
                device_here=traces.device,
                other_device=spec.resources.profiles_of_other_device,
                reporter=where.reporter,
            )
            candidates.append(
                Candidate(
                    name,
                    costs,
                    logits["calibration"],
                    logits["validation"],
                    precision=precision,
                    work=work,
                    published=published_flops(network),
                )
            )
    check_one_source(candidates)
    return with_frequencies(points, candidates)


def _tell(task: Task, before: int, text: str, done: int) -> None:
    task.advance(before + done, text)


def search_groups(spec: StudySpec, candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """The searches of phase 2, by name: one across the networks, or one for each.

    The name follows from the weights that are searched, from their costs and from the frequency plan: where a retried
    trial brings other networks, or a device table other numbers, another search begins, and the old one stays in the
    table.
    """
    if spec.operating_points.scope == "across":
        groups = [list(candidates)]
    else:
        weights = dict.fromkeys(candidate.weights for candidate in candidates)
        groups = [[candidate for candidate in candidates if candidate.weights == one] for one in weights]
    return {content_hash(sorted(candidate.identity for candidate in group)): group for group in groups}


def search_operating_points(spec: StudySpec, where: Surroundings, candidates: Sequence[Candidate]) -> pd.DataFrame:
    """Phase 2; returns the rows of its searches in the table ``operating_points``.

    Raises:
        UserError: not one trial could be evaluated.
    """
    points, groups = spec.operating_points, search_groups(spec, candidates)
    for name, group in groups.items():
        if points.search == "exact":
            list_exact_points(points, group, where.tables, name=name, reporter=where.reporter)
        else:
            search(points, group, where.tables, seed=spec.seed, name=name, reporter=where.reporter)
    if not part_count(where.tables, "operating_points"):
        raise UserError(f"{spec.name}: no operating point of the exact front keeps to the constraints; loosen them")
    table = read_table(where.tables, "operating_points")
    table = table[table["search"].isin(list(groups))]
    if table.empty:
        raise UserError(f"{spec.name}: no operating point of the exact front keeps to the constraints; loosen them")
    failed = table[table["state"] == "FAIL"]
    if len(failed):
        where.reporter.line(f"{len(failed)} of {len(table)} operating points failed; first: {failed['error'].iloc[0]}")
    if len(failed) == len(table):
        raise UserError(f"{spec.name}: no operating point could be evaluated: {failed['error'].iloc[0]}")
    return table


def finish(
    spec: StudySpec,
    where: Surroundings,
    data_settings: DataSettings,
    traces: TraceStore,
    candidates: Sequence[Candidate],
    points: pd.DataFrame,
) -> None:
    """Evaluate the front once on the test split and write the last tables. Here the test images are read first.

    Raises:
        UserError: no operating point keeps to the constraints.
    """
    test_set = cache(lambda: load_test_set(data_settings, where.data_root, download=where.download))
    front = front_of(points, spec.operating_points.objectives)
    own_exit_rows = [row for candidate in candidates for row in network_exit_rows(candidate)]
    write_part(where.tables, "costs", [row for candidate in candidates for row in cost_rows(candidate)])
    if front.empty:
        write_part(where.tables, "exits", own_exit_rows)
        raise UserError(f"{spec.name}: {_closest(points)}")

    @cache
    def test_logits(candidate: Candidate) -> SplitLogits:
        return traces.get(candidate.weights, candidate.precision, "test", test_set, test_set().digest)

    where.reporter.line(f"test: {len(front)} points of the front")
    rows, exit_rows = front_on_test(front, candidates, spec.operating_points.objectives, test_logits, test_set().digest)
    write_part(where.tables, "exits", own_exit_rows + exit_rows)
    write_part(where.tables, "front", rows)


def _closest(points: pd.DataFrame) -> str:
    """Which constraint the point that comes nearest to all of them still breaks."""
    done = points[(points["state"] == "COMPLETE") & points["repeat_of"].isna()]
    exceeded = done["constraints"].map(json.loads)
    nearest = min(exceeded, key=lambda values: max(values.values()))
    name = max(nearest, key=nearest.get)
    unit = "of all images" if name == "accuracy_drop" else "times the limit"
    return (
        f"none of {len(exceeded)} operating points keeps to the constraints; the nearest exceeds {name} by "
        f"{nearest[name]:.3g} {unit}; loosen it under another --name"
    )
