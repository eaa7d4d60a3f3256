"""A study from the study file to the front.

Running and resuming are the same function: each start derives from the files of the run folder what is left to do.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import pandas as pd

from results.parts import damaged_parts, read_or_empty, write_part
from results.recommendation import recommend
from results.schemas import SCHEMAS
from results.storage.paths import Location
from search_spaces.spec import OperatingPointsSpec, StudySpec
from study.checkpoints.description import read_description
from study.checkpoints.initial import initial_id, publish_initial
from study.costs.flops import work_of
from study.costs.published_program import published_program_flops
from study.data.loading import load_test_set
from study.errors import UserError
from study.execution.executor import Executor, NamedImages, Network, TrainingContext, trace_networks
from study.execution.local import LocalExecutor
from study.execution.trial import trial_lock
from study.execution.trial_log import NoLog, TrialLog
from study.execution.trial_plan import TrialPlan
from study.execution.trial_record import TrialRecord, set_aside_if_damaged
from study.fronts.exact import check_comparable
from study.networks.construction import meta_network
from study.networks.precisions import Precision
from study.progress import Reporter
from study.run.backbones import write_backbone_costs
from study.run.folder import Provenance, claim_folder, refuse_other_study
from study.run.images_line import images_line
from study.run.phase_1 import adopt_pretrained, run_phase, write_trials
from study.run.plan import DatasetPlan, RunContext, StudyPlan, make_plan
from study.run.trials import PhaseTrials
from study.search.cost_source import price, with_frequencies
from study.search.guarantee import Certification, certified_points
from study.search.optuna_search import list_exact_points, search
from study.search.test_front import cost_rows, front_of, front_on_test, network_exit_rows, why_no_front
from study.search.traced_network import TracedNetwork, reference_network
from study.storage.locks import exclusive, is_held
from study.storage.publish import content_hash, set_aside, sweep, sweep_drafts
from study.traces.store import TraceStore
from study.traces.trace import SplitLogits


@dataclass(frozen=True, kw_only=True)
class DatasetRun:
    """A study on one of its data sets. The data sets of a study share settings and run folder, and nothing else."""

    plan: StudyPlan
    where: RunContext
    data: DatasetPlan
    context: TrainingContext
    executor: Executor
    traces: TraceStore
    provenance: Provenance

    @cached_property
    def stamp(self) -> dict[str, str]:
        """The columns that all rows of this start carry."""
        return {"data": self.data.settings.name, "provenance": self.provenance.name()}


def run_study(spec: StudySpec, where: RunContext, *, extend: bool = False) -> None:
    """Run a study, or resume it, until the tables are complete.

    ``extend``: the folder may hold a smaller study, with fewer trials, epochs, parents, networks or data sets.

    Raises:
        UserError: the study names something that does not exist, the folder holds another study, or all trials of a
            phase failed.
    """
    where = replace(where, folder=where.folder.absolute())  # workers have other working folders
    with closing(executor_of(spec, where)) as executor:
        execute(make_plan(spec, where, executor, extend=extend), where, executor, extend=extend)


def plan_study(spec: StudySpec, where: RunContext, *, extend: bool) -> StudyPlan:
    """The plan that :func:`run_study` would execute; errors as there, before any work."""
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
        grown = refuse_other_study(plan.spec.plain(), where.folder, extend=extend)
        claim_folder(plan.spec.plain(), where.folder, plan.digests, grown)
        mend(where.folder)
        if plan.initial is not None:
            publish_initial(where.folder, initial_id(plan.initial), plan.initial)
        for name, data in plan.datasets.items():
            where.reporter.line(images_line(name, data.image_counts, data.dataset.notes))
        with closing(_trial_log(plan.spec, where)) as log:
            runs = [_dataset_run(plan, where, executor, data, log) for data in plan.datasets.values()]
            trained = [(run, _train(run)) for run in runs]
        for run, records in trained:
            traced = trace_best_networks(run, records)
            finish(run, traced, search_operating_points(run, traced))


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
    """Refuse (``UserError``) paths that are no UTF-8: Ray passes command line and folders on as UTF-8 text."""
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


def _trial_log(spec: StudySpec, where: RunContext) -> TrialLog:
    """The logs that a study asks for; without any, Ray's loggers are not imported."""
    if not spec.logging:
        return NoLog()
    from study.execution.ray.trial_loggers import TrialLoggers

    return TrialLoggers(spec.logging, where.folder, spec.name, where.reporter)


def _dataset_run(
    plan: StudyPlan, where: RunContext, executor: Executor, data: DatasetPlan, log: TrialLog
) -> DatasetRun:
    provenance = Provenance(plan.spec.plain(), data.dataset.info.digest)
    provenance.record(where.tables)
    return DatasetRun(
        plan=plan,
        where=where,
        data=data,
        context=TrainingContext(checkpoints=where.checkpoints, dataset=data.dataset, reporter=where.reporter, log=log),
        executor=executor,
        traces=TraceStore(where.folder / "traces", where.checkpoints, data.dataset.calibration, executor.device),
        provenance=provenance,
    )


def _train(run: DatasetRun) -> list[TrialRecord]:
    """Phase 1; returns the trials of exit heads, best first."""
    trials = run.plan.trials
    backbones = _train_phase(run, trials.backbones, trials.backbones_on(run.data.dataset.info.digest))
    parents = [record for record in backbones if record.usable][: trials.backbones.keep]
    heads = [plan for parent in parents for plan in trials.exits_on(parent.plan, parent.weights)]
    return _train_phase(run, trials.exits, heads)


def _train_phase(run: DatasetRun, phase: PhaseTrials, plans: Sequence[TrialPlan]) -> list[TrialRecord]:
    """Train the trials of a phase. The best weights are read in full: damaged trials are set aside and trained again.

    Raises:
        UserError: no trial could be trained, or weights are damaged again and again.
    """
    checkpoints, name = run.where.checkpoints, phase.plans[0].phase
    for _ in range(3):
        if run.plan.own_weights is not None and name == "backbones":
            records = [adopt_pretrained(run.plan.own_weights, plans[0], run.context)]
        else:
            records = run_phase(plans, phase.section, run.context, run.executor, keep=phase.keep)
        best = [record for record in records if record.usable][: phase.keep]
        if not best:
            error = next((record.error for record in records if record.error), "every trial diverged")
            raise UserError(f"no trial of phase {name} could be trained: {error}")
        if not [record for record in best if set_aside_if_damaged(record, checkpoints)]:
            data = run.data.settings.name
            write_trials(run.where.tables, records, run.provenance, data=data, part=f"{data}-{name}")
            return records
    raise UserError(f"{checkpoints}: weights are damaged as soon as they are written: is the disk sound?")


def trace_best_networks(run: DatasetRun, records: Sequence[TrialRecord]) -> list[TracedNetwork]:
    """Trace the best networks on the calibration and validation splits and cost them, at each precision."""
    points, dataset = run.plan.spec.operating_points, run.data.dataset
    splits = {
        "calibration": NamedImages(images=dataset.calibration, digest=dataset.info.digest),
        "validation": NamedImages(images=dataset.validation, digest=dataset.info.digest),
    }
    best = [record for record in records if record.usable][: points.networks]
    weights = [record.weights for record in best if record.weights]
    networks = [(name, cast(Precision, precision)) for name in weights for precision in points.quantization.values]
    logits = trace_networks(networks, splits, run.traces, run.executor, run.where.reporter)
    traced = [_priced(run, network, {split: logits[network, split] for split in splits}) for network in networks]
    check_comparable([network.costs for network in traced])
    return with_frequencies(points, run.plan.cost_table, traced)


def _priced(run: DatasetRun, network: Network, logits: Mapping[str, SplitLogits]) -> TracedNetwork:
    points, where, (name, precision) = run.plan.spec.operating_points, run.where, network
    checkpoint = read_description(where.checkpoints / name.trial_id / "best")
    assert checkpoint is not None, "the network was just traced from this checkpoint"
    # The published program has tables for VGG and ResNet of its own shape, without cascades.
    comparable = ":" not in checkpoint.network.backbone and not checkpoint.network.head.cascade
    work = work_of(checkpoint.network, checkpoint.data)
    profile_path = where.folder / "profiles" / f"{name.file_stem}-{precision}-batch{points.batch_size}.json"
    # Of which device a profile is, its node has seen to; that of the driver may be another.
    any_device = run.plan.spec.resources.profiles_of_other_device or where.address is not None
    costs = price(
        points,
        run.plan.cost_table.costs(work, precision=precision, batch_size=points.batch_size),
        precision,
        lambda: run.executor.measure(network, points, profile_path, run.traces),
        profile_path,
        device_here=None if any_device else run.traces.device,
        reporter=where.reporter,
    )
    return TracedNetwork(
        name,
        costs,
        logits["calibration"],
        logits["validation"],
        precision=precision,
        work=work,
        published=published_program_flops(meta_network(checkpoint.network, checkpoint.data)) if comparable else None,
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


def search_networks(
    spec: StudySpec,
    networks: Sequence[TracedNetwork],
    tables: Location,
    *,
    name: str,
    reporter: Reporter,
    stamp: Mapping[str, str],
) -> None:
    """One search of phase 2, or the whole exact front; the rows go to the table ``operating_points``."""
    points = spec.operating_points
    if points.search == "exact":
        list_exact_points(points, networks, tables, name=name, reporter=reporter, stamp=stamp)
    else:
        search(points, networks, tables, seed=spec.seed, name=name, reporter=reporter, stamp=stamp)


def search_operating_points(run: DatasetRun, traced: Sequence[TracedNetwork]) -> pd.DataFrame:
    """Phase 2; returns the rows of its searches in the table ``operating_points``."""
    points, where = run.plan.spec.operating_points, run.where
    groups = search_groups(points, traced)
    for name, group in groups.items():
        search_networks(run.plan.spec, group, where.tables, name=name, reporter=where.reporter, stamp=run.stamp)
    table = read_or_empty(where.tables, "operating_points")
    table = table[table["search"].isin(list(groups))]
    failed = table[table["state"] == "FAIL"]
    if len(failed):
        where.reporter.line(f"{len(failed)} of {len(table)} operating points failed; first: {failed['error'].iloc[0]}")
    return table


def finish(run: DatasetRun, traced: Sequence[TracedNetwork], points: pd.DataFrame) -> None:
    """Evaluate the front once on the test split, and write the last tables.

    Raises:
        UserError: the front is empty: no operating point could be evaluated, or none keeps the constraints.
    """
    where, settings = run.where, run.data.settings
    _write(where.tables, "costs", [row for network in traced for row in cost_rows(network)], run.stamp)
    classes = len(run.data.dataset.info.class_names)
    write_backbone_costs(where.folder, run.plan.spec.data, run.plan.spec.operating_points, settings.name, classes)
    front = front_of(points, run.plan.spec.operating_points.objectives)
    if front.empty:
        _write(where.tables, "exits", [row for network in traced for row in network_exit_rows(network)], run.stamp)
        raise UserError(f"{run.plan.spec.name}: {why_no_front(points)}")
    certification = _certify(run, traced, front)
    where.reporter.line(f"test: {len(front)} points of the front")
    test_set = load_test_set(settings, where.data_root, download=where.download)
    # Those without a point on the front too: `compare` reports what else could have been made of them.
    networks: list[Network] = [(one.weights, one.precision) for one in traced]
    test = NamedImages(images=test_set, digest=test_set.digest)
    logits = trace_networks(networks, {"test": test}, run.traces, run.executor, where.reporter)
    tests = {network: logits[network, "test"] for network in networks}
    objectives = run.plan.spec.operating_points.objectives
    write_front(where.tables, front, objectives, traced, tests, test.digest, run.stamp, certification)


def _certify(run: DatasetRun, traced: Sequence[TracedNetwork], front: pd.DataFrame) -> Certification | None:
    """Trace the certification split, if there is one, and certify points of a front if the study asks for a guarantee.

    The images are traced only now, after the choices of both phases.
    """
    spec, images = run.plan.spec, run.data.dataset.certification
    if images is None:
        return None
    splits = {"certification": NamedImages(images=images, digest=run.data.dataset.info.digest)}
    networks: list[Network] = [(one.weights, one.precision) for one in traced]
    logits = trace_networks(networks, splits, run.traces, run.executor, run.where.reporter)
    if spec.guarantee is None:  # ``front --guarantee`` reads the traces
        return None
    found = certified_points(
        front, traced, spec.guarantee, lambda one: logits[(one.weights, one.precision), "certification"]
    )
    run.where.reporter.line(found.sentence())
    return found


def write_front(
    tables: Location,
    front: pd.DataFrame,
    objectives: Sequence[str],
    networks: Sequence[TracedNetwork],
    tests: Mapping[Network, SplitLogits],
    digest: str,
    stamp: Mapping[str, str],
    certification: Certification | None,
) -> None:
    """Evaluate a front on the test traces, and write the tables ``exits`` and ``front``.

    ``stamp`` has the columns that all rows share; its ``data`` names the part.
    """
    rows, exit_rows = front_on_test(front, networks, objectives, lambda one: tests[one.weights, one.precision], digest)
    if certification is not None:
        rows = [{**row, **certification.columns(position)} for position, row in enumerate(rows)]
    chosen = recommend(pd.DataFrame(rows), reference_network(networks).classic_accuracy).position
    rows = [{**row, "recommended": place == chosen} for place, row in enumerate(rows)]
    own_exit_rows = [row for network in networks for row in network_exit_rows(network)]
    _write(tables, "exits", own_exit_rows + exit_rows, stamp)
    _write(tables, "front", rows, stamp)


def _write(tables: Location, name: str, rows: Sequence[Mapping[str, Any]], stamp: Mapping[str, str]) -> None:
    write_part(tables, name, [{**row, **stamp} for row in rows], stamp["data"])
