"""Phase 2: an Optuna search over inference settings, on replayed traces.

The truth is the table ``operating_points``, written in batches. Every start rebuilds the Optuna study in memory from
it, and each question is asked with a sampler seeded by (seed, number of the trial): a search that was interrupted goes
on as if it had not been. A half-done batch is asked again.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

from results.parts import next_part, write_part
from results.storage.atomic import write_atomic
from results.storage.paths import Location
from search_spaces.spec import OperatingPointsSpec
from study.errors import UserError
from study.progress import Reporter
from study.search.exact_search import exact_points, uncovered
from study.search.hypervolume import HypervolumeIndicator
from study.search.operating_point import COLUMNS
from study.search.space import constraint_values, known_value
from study.search.state import TABLE, SearchState, StoredTrials
from study.search.suggest import make_sampler, suggest
from study.search.traced_network import TracedNetwork, reference_network
from study.storage.strict_json import dumps

EXACT = "exact"
"""Stands in the column of the sampler where no sampler was asked."""


def search(
    spec: OperatingPointsSpec,
    networks: Sequence[TracedNetwork],
    tables: Location,
    *,
    seed: int,
    name: str,
    reporter: Reporter,
    stamp: Mapping[str, str] | None = None,
) -> None:
    """Ask and tell until the table holds ``spec.trials`` trials of this search, or a reason to stop.

    Args:
        spec: what to search.
        networks: the networks to choose among.
        tables: the run folder's ``tables``.
        seed: of the study.
        name: of this search, in the table.
        reporter: told the number of trials done.
        stamp: columns that all new rows share: the data set, and what computes them.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    stored = StoredTrials(tables, name)
    journal = tables.parent / "optuna" / f"{name}.log"
    if stored.is_whole(spec) and journal.exists():
        reporter.line(f"operating points: {len(stored)} are already there")
        return
    state = SearchState(spec, networks, HypervolumeIndicator.of(spec.objectives, networks))
    study = _new_study(spec, seed)
    truth: float | None = None
    fresh = 0
    with reporter.task("operating points", spec.trials) as task:
        while not state.is_over():
            batch, part = stored.batch(state.done, spec.batch), None
            if 0 < len(batch) < min(spec.batch, spec.trials - state.done) and _is_last(batch, stored):
                # The study was smaller and ended here. The batch is asked again as a whole one, so that all batches,
                # and what is decided at their ends, are those of a study that was never smaller.
                part = stored.withdraw(batch)
                batch = batch if part is None else []
            if batch:  # asked and told before: the study learns it again
                for row in batch:
                    _tell_again(study, row, spec, networks, seed)
                    state.add(row)
            else:
                if not fresh:
                    truth = _exact_hypervolume(spec, networks, state.indicator, reporter)
                while len(batch) < spec.batch and state.done < spec.trials and state.done not in stored.numbers:
                    row = _one_trial(study, spec, networks, state, seed)
                    batch.append({**row, "search": name, **(stamp or {})})
                    state.add(row)
                found = state.hypervolume()
                for row in batch:
                    row |= {"hypervolume": found, "hypervolume_ratio": found / truth if truth else None}
                fresh += len(batch)
                write_part(tables, TABLE, batch, next_part(tables, TABLE) if part is None else part)
            state.end_batch(batch[-1])
            task.advance(state.done, state.text())
    if state.done < spec.trials:
        why = "the hypervolume_ratio is reached" if state.has_ratio() else "the hypervolume is on a plateau"
        reporter.line(f"operating points: stopped after {state.done} of {spec.trials} trials: {why}")
    if fresh or not journal.exists():
        export_journal(study, journal)


def _is_last(batch: Sequence[Mapping[str, Any]], stored: StoredTrials) -> bool:
    return bool(batch[-1]["number"] == max(stored.numbers))


def _new_study(spec: OperatingPointsSpec, seed: int) -> optuna.Study:
    maximize, minimize = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    directions = [maximize if objective == "accuracy" else minimize for objective in spec.objectives]
    # QMC counts what it drew: one sampler, with the study's own seed, draws everything.
    return optuna.create_study(directions=directions, sampler=make_sampler(spec.sampler, seed))


def list_exact_points(
    spec: OperatingPointsSpec,
    networks: Sequence[TracedNetwork],
    tables: Location,
    *,
    name: str,
    reporter: Reporter,
    stamp: Mapping[str, str] | None = None,
) -> None:
    """Write the exact front of a search space to the table, in place of a search."""
    if len(StoredTrials(tables, name)):
        reporter.line("operating points: the exact front is already there")
        return
    reference = reference_network(networks).classic_accuracy
    found, values = exact_points(spec, networks, reference)
    if not found:
        trials = ", ".join(dict.fromkeys(network.trial_id for network in networks))
        reporter.line(f"operating points: no operating point of {trials} keeps the constraints")
        return
    rows: list[dict[str, Any]] = []
    with reporter.task("operating points", len(found)) as task:
        for exact in found:
            metrics = {"split": "validation", **exact.point.evaluate()}
            rows.append(
                {
                    "number": len(rows),
                    "search": name,
                    **(stamp or {}),
                    "sampler": EXACT,
                    "batch_size": spec.batch_size,
                    "trial_id": exact.point.network.trial_id,
                    "state": "COMPLETE",
                    **exact.settings(),
                    **metrics,
                    **_judged(metrics, spec, reference),
                }
            )
            task.advance(len(rows), "exact front")
    volume = HypervolumeIndicator.of(spec.objectives, networks).of_values(values)
    for row in rows:
        row |= {"hypervolume": volume, "hypervolume_ratio": 1.0 if volume else None}
    write_part(tables, TABLE, rows, next_part(tables, TABLE))


def _exact_hypervolume(
    spec: OperatingPointsSpec, networks: Sequence[TracedNetwork], indicator: HypervolumeIndicator, reporter: Reporter
) -> float | None:
    """The hypervolume of the exact front; None where the space has none.

    Under frequency rules it takes minutes, not seconds: there it is computed only where the search stops by it.
    """
    slow = spec.dvfs.values != ("none",) and spec.stop.hypervolume_ratio is None
    if uncovered(spec) is not None or slow:
        return None
    start = time.perf_counter()
    _, values = exact_points(spec, networks, reference_network(networks).classic_accuracy)
    reporter.line(f"exact front of the space searched: {len(values)} points in {time.perf_counter() - start:.1f} s")
    return indicator.of_values(values)


def export_journal(study: optuna.Study, path: Location) -> None:
    """Write an Optuna study as a journal, for ``optuna-dashboard``. It is never read back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "journal.log"
        storage = JournalStorage(JournalFileBackend(str(draft)))
        copy = optuna.create_study(study_name=path.stem, directions=study.directions, storage=storage)
        copy.add_trials(study.trials)
        write_atomic(path, draft.read_bytes())


def _one_trial(
    study: optuna.Study, spec: OperatingPointsSpec, networks: Sequence[TracedNetwork], state: SearchState, seed: int
) -> dict[str, Any]:
    """Ask for one trial, replay it, tell the result; returns its row."""
    number = state.done
    trial = _ask(study, spec, number, seed)
    row: dict[str, Any] = {"number": number, "sampler": spec.sampler, "batch_size": spec.batch_size}
    try:
        point = suggest(trial, networks, spec)
        repeat_of = state.known.get(point.key)
        row |= {"trial_id": point.network.trial_id, **point.settings(), "repeat_of": repeat_of}
        metrics = state.metrics.get(-1 if repeat_of is None else repeat_of)
        if metrics is None:
            metrics = {"split": "validation", **point.evaluate()}
            metrics |= _judged(metrics, spec, reference_network(networks).classic_accuracy)
        values = [known_value(metrics, objective) for objective in spec.objectives]
        if not np.isfinite(values).all():
            raise UserError(f"an objective is not finite: {dict(zip(spec.objectives, values, strict=True))}")
    except UserError as error:
        study.tell(trial, state=TrialState.FAIL)
        row |= {"state": "FAIL", "error": str(error)}
    else:
        for limit, exceeded in json.loads(metrics["constraints"]).items():
            trial.set_constraint(limit, exceeded)
        study.tell(trial, values)
        row |= {"state": "COMPLETE", **metrics}
    row["params"] = dumps(trial.params)
    row["distributions"] = dumps({key: distribution_to_json(d) for key, d in trial.distributions.items()})
    return row


def _judged(metrics: Mapping[str, Any], spec: OperatingPointsSpec, reference: float) -> dict[str, Any]:
    exceeded = constraint_values(metrics, spec.constraints.limits, reference)
    return {"constraints": dumps(exceeded), "feasible": all(value <= 0 for value in exceeded.values())}


_STATEFUL = ("qmc", "nsga2", "nsga3")
"""QMC counts what it drew; NSGA keeps the parents of each generation."""


def _ask(study: optuna.Study, spec: OperatingPointsSpec, number: int, seed: int) -> optuna.Trial:
    """The next trial, whatever was asked before this process started."""
    if spec.sampler != "qmc":
        state = np.random.SeedSequence([seed, number]).generate_state(1)
        study.sampler = make_sampler(spec.sampler, int(state[0]))
    return study.ask()


def _tell_again(
    study: optuna.Study,
    row: Mapping[str, Any],
    spec: OperatingPointsSpec,
    networks: Sequence[TracedNetwork],
    seed: int,
) -> None:
    """Bring a new study past a trial of the table.

    Samplers that keep a state of their own beside the trials are asked again, which costs next to nothing for them; to
    the others the stored trial is added.

    Raises:
        UserError: asked again, such a sampler answers otherwise than the table says.
    """
    complete = row["state"] == "COMPLETE"
    values = [row[COLUMNS[objective]] for objective in spec.objectives] if complete else None
    params, exceeded = json.loads(row["params"]), json.loads(row["constraints"] or "{}")
    if spec.sampler not in _STATEFUL:
        study.add_trial(
            optuna.create_trial(
                state=TrialState.COMPLETE if complete else TrialState.FAIL,
                params=params,
                distributions={key: json_to_distribution(d) for key, d in json.loads(row["distributions"]).items()},
                values=values,
                constraints=exceeded,
            )
        )
        return
    trial = _ask(study, spec, int(row["number"]), seed)
    with contextlib.suppress(UserError):
        suggest(trial, networks, spec)
    if trial.params != params:
        raise UserError(
            f"sampler {spec.sampler} does not repeat trial {row['number']} of the stored search, which was made with "
            "other versions; remove the table operating_points to search again"
        )
    for limit, value in exceeded.items():
        trial.set_constraint(limit, value)
    study.tell(trial, values, state=None if complete else TrialState.FAIL)
