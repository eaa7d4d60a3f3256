"""A study from the study file to the front.

Running and resuming are the same function: each start derives from the files of the run folder what is left to do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pandas as pd

from results.parts import damaged_parts, read_or_empty, write_part
from results.schemas import SCHEMAS
from results.storage.paths import Location
from search_spaces.spec import OperatingPointsSpec, StudySpec
from study.checkpoints.description import read_description
from study.costs.flops import count_work
from study.costs.published_program import published_program_flops
from study.data.loading import load_test_set
from study.data.settings import Dataset, DataSettings
from study.errors import UserError
from study.execution.executor import Executor, NamedImages, Network, TrainingContext, trace_networks
from study.execution.local import LocalExecutor
from study.execution.trial import trial_lock
from study.execution.trial_plan import TrialPlan
from study.execution.trial_record import TrialRecord, set_aside_if_damaged
from study.fronts.exact import check_comparable
from study.networks.construction import meta_network
from study.networks.precisions import Precision
from study.progress import Reporter
from study.run.folder import claim_folder, refuse_other_study
from study.run.halving import run_phase
from study.run.own_weights import adopt_pretrained
from study.run.plan import StudyPlan, images_line, make_plan
from study.run.provenance import Provenance
from study.run.tables import write_trials
from study.run.trials import PhaseTrials, StudyTrials
from study.search.cost_source import price, with_frequencies
from study.search.optuna_search import list_exact_points, search
from study.search.test_front import cost_rows, front_of, front_on_test, network_exit_rows, why_no_front
from study.search.traced_network import TracedNetwork
from study.storage.home import user_path
from study.storage.locks import exclusive, is_held
from study.storage.publish import content_hash, set_aside, sweep, sweep_drafts
from study.traces.store import TraceStore
from study.traces.trace import SplitLogits


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
class DatasetRun:
    """A study on one of its data sets. The data sets of a study share settings and run folder, and nothing else."""

    settings: DataSettings
    dataset: Dataset
    context: TrainingContext
    executor: Executor
    traces: TraceStore
    provenance: Provenance

    @property
    def stamp(self) -> dict[str, str]:
        """The columns that all rows of this start carry."""
        return {"data": self.settings.name, "provenance": self.provenance.name()}


def run_study(spec: StudySpec, where: RunContext, *, extend: bool = False) -> None:
    """Run a study, or resume it, until the tables are complete.

    Args:
        spec: the study.
        where: to run it.
        extend: the folder may hold a smaller study, with fewer trials, epochs, parents, networks or data sets.

    Raises:
        UserError: the study names something that does not exist, the folder holds another study, or all trials of a
            phase failed.
    """
    where = replace(where, folder=where.folder.absolute())  # workers have other working folders
    with closing(executor_of(spec, where)) as executor:
        execute(make_plan(spec, where, executor, extend=extend), where, executor, extend=extend)


def plan_study(spec: StudySpec, where: RunContext, *, extend: bool) -> StudyPlan:
    """The plan that :func:`run_study` would execute.

    Raises:
        UserError: as :func:`run_study`, before any work.
    """
    with closing(executor_of(spec, where)) as executor:
        return make_plan(spec, where, executor, extend=extend)


def execute(plan: StudyPlan, where: RunContext, executor: Executor, *, extend: bool) -> None:
    """Execute a plan in its run folder; arguments and errors as in :func:`run_study`."""
    if where.address is not None:  # a cluster that does not share the folder is reported before a folder is made
        from study.execution.ray.nodes import check_shared

        check_shared(where.folder, where.address)
    # `status` looks at the lock by taking it for an instant.
    with exclusive(where.folder / ".lock", str(where.folder), patience_seconds=1):
        # Another driver may have written the folder since the plan was made.
        grown = refuse_other_study(plan.spec, where.folder, extend=extend)
        claim_folder(plan.spec, where.folder, plan.digests, grown)
        mend(where.folder)
        for name, planned in plan.datasets.items():
            where.reporter.line(images_line(name, planned.image_counts))
        dataset_runs = [
            _dataset_run(plan.spec, where, executor, planned.settings, planned.dataset)
            for planned in plan.datasets.values()
        ]
        networks = [_train(plan.trials, where, dataset_run) for dataset_run in dataset_runs]
        for dataset_run, records in zip(dataset_runs, networks, strict=True):
            traced = trace_best_networks(plan, where, dataset_run, records)
            points = search_operating_points(plan.points, where, dataset_run, traced, seed=plan.spec.seed)
            finish(plan, where, dataset_run, traced, points)


def executor_of(spec: StudySpec, where: RunContext) -> Executor:
    """The executor that a start asks for. Ray is imported only where Ray is used.

    Raises:
        UserError: the study needs Ray, and the start refuses Ray.
    """
    if where.local:
        if where.address is not None:
            raise UserError("--local works in this process alone: leave out --address")
        if "asha" in (spec.backbones.scheduler.kind, spec.exits.scheduler.kind):
            raise UserError(f"{spec.name}: the scheduler asha compares trials that run together: leave out --local")
        return LocalExecutor(spec.resources)
    _refuse_bytes_that_are_no_text(where)
    from study.execution.ray.executor import RayExecutor

    return RayExecutor(spec.resources, where.address)


def _refuse_bytes_that_are_no_text(where: RunContext) -> None:
    """Refuse paths that are no UTF-8: Ray passes the command line and the folders on as UTF-8 text.

    Raises:
        UserError: such a path is given, or the working folder is one.
    """
    for text in (str(where.folder), str(where.data_root.absolute()), *sys.argv):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(f"{text}: this path is no UTF-8, which Ray needs: rename it, or add --local") from None


def mend(folder: Location) -> None:
    """Remove the drafts of killed writers, and set damaged parts of tables aside: the rows are computed again.

    On object stores nothing is ever half written, and folders of trials are not listed for the rare old generation.
    """
    tables = folder / "tables"
    for place in (folder, folder / "profiles", folder / "optuna", *(tables / name for name in SCHEMAS)):
        sweep_drafts(place)
    if isinstance(folder, Path):
        for place in (folder / "traces").glob("*"):
            sweep_drafts(place)
        for trial in (folder / "checkpoints").glob("*"):
            if trial.suffix != ".damaged" and not is_held(trial_lock(folder / "checkpoints", trial.name)):
                sweep(trial / "last")
                sweep(trial / "best")
    for part, error in damaged_parts(tables):
        set_aside(part, str(error))


def _dataset_run(
    spec: StudySpec, where: RunContext, executor: Executor, settings: DataSettings, dataset: Dataset
) -> DatasetRun:
    context = TrainingContext(checkpoints=where.checkpoints, dataset=dataset, reporter=where.reporter)
    provenance = Provenance(spec, dataset.info.digest)
    provenance.record(where.tables)
    traces = TraceStore(where.folder / "traces", where.checkpoints, dataset.calibration, executor.device)
    return DatasetRun(
        settings=settings, dataset=dataset, context=context, executor=executor, traces=traces, provenance=provenance
    )


def _train(trials: StudyTrials, where: RunContext, dataset_run: DatasetRun) -> list[TrialRecord]:
    """Phase 1; returns the trials of exit heads, best first."""
    data = dataset_run.settings.name
    backbones = _readable(lambda: train_backbones(trials, dataset_run), trials.backbones.keep, where)
    write_trials(where.tables, backbones, dataset_run.provenance, data=data, part=f"{data}-backbones")
    exits = _readable(lambda: train_exits(trials, dataset_run, backbones), trials.exits.keep, where)
    write_trials(where.tables, exits, dataset_run.provenance, data=data, part=f"{data}-exits")
    return exits


def _readable(train: Callable[[], list[TrialRecord]], most: int, where: RunContext) -> list[TrialRecord]:
    """The trials of a phase, after a full read of the best weights; damaged trials are set aside and trained again.

    Raises:
        UserError: again and again.
    """
    for _ in range(3):
        records = train()
        best = [record for record in records if record.usable][:most]
        damaged = [record for record in best if set_aside_if_damaged(record, where.checkpoints)]
        if not damaged:
            return records
    raise UserError(f"{where.checkpoints}: weights are damaged as soon as they are written: is the disk sound?")


def train_backbones(trials: StudyTrials, dataset_run: DatasetRun) -> list[TrialRecord]:
    """Phase 1a: backbones, or the weights of the user in their place."""
    plans = trials.backbones_on(dataset_run.dataset.info.digest)
    if trials.pretrained:
        return [adopt_pretrained(user_path(trials.pretrained), plans[0], dataset_run.context)]
    return _train_all(plans, trials.backbones, dataset_run)


def train_exits(trials: StudyTrials, dataset_run: DatasetRun, backbones: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Phase 1b: exit heads on the best backbones; the usable trials, best first."""
    parents = [record for record in backbones if record.usable][: trials.backbones.keep]
    plans = [plan for parent in parents for plan in trials.exits_on(parent.plan, parent.weights)]
    return _train_all(plans, trials.exits, dataset_run)


def _train_all(plans: Sequence[TrialPlan], half: PhaseTrials, dataset_run: DatasetRun) -> list[TrialRecord]:
    records = run_phase(plans, half.section, dataset_run.context, dataset_run.executor, keep=half.keep)
    if not any(record.usable for record in records):
        error = next((record.error for record in records if record.error), "every trial diverged")
        raise UserError(f"no trial of phase {plans[0].phase} could be trained: {error}")
    return records


def trace_best_networks(
    plan: StudyPlan, where: RunContext, dataset_run: DatasetRun, records: Sequence[TrialRecord]
) -> list[TracedNetwork]:
    """Trace the best networks on the calibration and validation splits and cost them, at each precision."""
    points, dataset = plan.points, dataset_run.dataset
    splits = {
        "calibration": NamedImages(images=dataset.calibration, digest=dataset.info.digest),
        "validation": NamedImages(images=dataset.validation, digest=dataset.info.digest),
    }
    best = [record for record in records if record.usable][: points.networks]
    weights = [record.weights for record in best if record.weights]
    networks = [(name, cast(Precision, precision)) for name in weights for precision in points.quantization.values]
    logits = trace_networks(networks, splits, dataset_run.traces, dataset_run.executor, where.reporter)
    traced = [
        _priced(plan, where, dataset_run, network, {split: logits[network, split] for split in splits})
        for network in networks
    ]
    check_comparable([network.costs for network in traced])
    return with_frequencies(points, traced)


def _priced(
    plan: StudyPlan, where: RunContext, dataset_run: DatasetRun, network: Network, logits: Mapping[str, SplitLogits]
) -> TracedNetwork:
    points, (name, precision) = plan.points, network
    checkpoint = read_description(where.checkpoints / name.trial_id / "best")
    assert checkpoint is not None, "the network was just traced from this checkpoint"
    network_shape = meta_network(checkpoint.network, checkpoint.data)
    work = count_work(network_shape)
    file = f"{name.file_stem}-{precision}-batch{points.batch_size}.json"
    profile_path = where.folder / "profiles" / file
    costs = price(
        points,
        work,
        precision,
        lambda: dataset_run.executor.measure(network, points, profile_path, dataset_run.traces),
        profile_path,
        device_here=dataset_run.traces.device,
        # Of which device a profile is, its node has seen to; that of the driver may be another.
        other_device=plan.resources.profiles_of_other_device or where.address is not None,
        reporter=where.reporter,
    )
    return TracedNetwork(
        name,
        costs,
        logits["calibration"],
        logits["validation"],
        precision=precision,
        work=work,
        published=published_program_flops(network_shape),
    )


def search_groups(points: OperatingPointsSpec, traced: Sequence[TracedNetwork]) -> dict[str, list[TracedNetwork]]:
    """The searches of phase 2, by name: one across the networks, or one for each.

    The name follows from the weights that are searched, from their costs and from the frequency plan: where a retried
    trial brings other networks, or a device table other numbers, another search begins, and the old one stays in the
    table.
    """
    if points.scope == "across":
        groups = [list(traced)]
    else:
        weights = dict.fromkeys(network.weights for network in traced)
        groups = [[network for network in traced if network.weights == one] for one in weights]
    return {content_hash(sorted(network.identity for network in group)): group for group in groups}


def search_operating_points(
    points: OperatingPointsSpec,
    where: RunContext,
    dataset_run: DatasetRun,
    traced: Sequence[TracedNetwork],
    *,
    seed: int,
) -> pd.DataFrame:
    """Phase 2; returns the rows of its searches in the table ``operating_points``."""
    groups = search_groups(points, traced)
    for name, group in groups.items():
        if points.search == "exact":
            list_exact_points(points, group, where.tables, name=name, reporter=where.reporter, stamp=dataset_run.stamp)
        else:
            search(points, group, where.tables, seed=seed, name=name, reporter=where.reporter, stamp=dataset_run.stamp)
    table = read_or_empty(where.tables, "operating_points")
    table = table[table["search"].isin(list(groups))]
    failed = table[table["state"] == "FAIL"]
    if len(failed):
        where.reporter.line(f"{len(failed)} of {len(table)} operating points failed; first: {failed['error'].iloc[0]}")
    return table


def finish(
    plan: StudyPlan,
    where: RunContext,
    dataset_run: DatasetRun,
    traced: Sequence[TracedNetwork],
    points: pd.DataFrame,
) -> None:
    """Evaluate the front once on the test split, and write the last tables.

    Raises:
        UserError: the front is empty: no operating point could be evaluated, or none keeps the constraints.
    """
    objectives, data = plan.points.objectives, dataset_run.settings.name

    stamp = dataset_run.stamp  # once: it asks the disk for versions

    def write(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        write_part(where.tables, name, [{**row, **stamp} for row in rows], data)

    own_exit_rows = [row for network in traced for row in network_exit_rows(network)]
    write("costs", [row for network in traced for row in cost_rows(network)])
    front = front_of(points, objectives)
    if front.empty:
        write("exits", own_exit_rows)
        raise UserError(f"{plan.spec.name}: {why_no_front(points)}")
    where.reporter.line(f"test: {len(front)} points of the front")
    test_set = load_test_set(dataset_run.settings, where.data_root, download=where.download)
    # Those without a point on the front too: `compare` reports what else could have been made of them.
    networks: list[Network] = [(one.weights, one.precision) for one in traced]
    test = NamedImages(images=test_set, digest=test_set.digest)
    logits = trace_networks(networks, {"test": test}, dataset_run.traces, dataset_run.executor, where.reporter)
    rows, exit_rows = front_on_test(
        front, traced, objectives, lambda one: logits[(one.weights, one.precision), "test"], test.digest
    )
    write("exits", own_exit_rows + exit_rows)
    write("front", rows)
