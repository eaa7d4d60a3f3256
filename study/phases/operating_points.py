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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

from results.files import write_atomic
from results.tables import SCHEMAS, next_part, part_count, read_table, rows_of, write_part
from search_spaces.spec import OperatingPointsSpec
from study.criteria import Criterion
from study.errors import UserError
from study.phases.candidates import COLUMNS, Candidate, OperatingPoint
from study.phases.constraints import constraint_values, known_value, reference_accuracy
from study.phases.exact import exact_points, uncovered
from study.phases.suggestions import find_candidate, make_sampler, suggest
from study.phases.yardstick import Yardstick, on_plateau
from study.policies import Classic, Hierarchical, Placed, Policy, Predictive, Static
from study.progress import Reporter

EXACT = "exact"
"""Stands in the column of the sampler where no sampler was asked."""
TABLE = "operating_points"


def search(
    spec: OperatingPointsSpec,
    candidates: Sequence[Candidate],
    tables: Path,
    *,
    seed: int,
    name: str,
    reporter: Reporter,
) -> None:
    """Ask and tell until the table holds ``spec.trials`` trials of this search, or a reason to stop.

    Args:
        spec: what to search.
        candidates: the networks to choose among.
        tables: the run folder's ``tables``.
        seed: of the study.
        name: of this search, in the table.
        reporter: told the number of trials done.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = _stored_rows(tables, name)
    by_number = {int(row["number"]): row for row in rows}
    journal = tables.parent / "optuna" / f"{name}.log"
    yardstick = Yardstick.of(spec.objectives, candidates)
    if _is_over(spec, rows) and journal.exists():
        reporter.line(f"operating points: {len(rows)} are already there")
        return
    directions = [
        StudyDirection.MAXIMIZE if objective == "accuracy" else StudyDirection.MINIMIZE for objective in spec.objectives
    ]
    study = optuna.create_study(directions=directions, sampler=make_sampler(spec.sampler, 0))
    _rebuild(study, rows, spec, candidates, seed)
    known: dict[object, int] = {}
    for row in rows:
        if row["state"] == "COMPLETE":
            known.setdefault(point_of(row, candidates).key, int(row["number"]))
    truth = None if _is_over(spec, rows) else _exact_hypervolume(spec, candidates, yardstick, reporter)
    with reporter.task("operating points", spec.trials) as task:
        if rows:
            task.advance(len(rows), "already there")
        while not _is_over(spec, list(by_number.values())):
            batch = []
            for number in range(len(by_number), min(len(by_number) + spec.batch, spec.trials)):
                row = _one_trial(study, spec, candidates, number, seed, name, known, by_number)
                by_number[number] = row
                batch.append(row)
            found = yardstick.hypervolume(row for row in by_number.values() if row.get("feasible"))
            for row in batch:
                row |= {"hypervolume": found, "hypervolume_ratio": found / truth if truth else None}
            write_part(tables, TABLE, batch, next_part(tables, TABLE))
            task.advance(len(by_number), _progress(by_number.values(), len(known)))
    if len(by_number) < spec.trials:
        row = by_number[len(by_number) - 1]
        ratio = row["hypervolume_ratio"]
        why = "the hypervolume_ratio is reached" if _reached(spec, ratio) else "the hypervolume is on a plateau"
        reporter.line(f"operating points: stopped after {len(by_number)} of {spec.trials} trials: {why}")
    if len(by_number) > len(rows) or not journal.exists():
        export_journal(study, journal)


def list_exact_points(
    spec: OperatingPointsSpec, candidates: Sequence[Candidate], tables: Path, *, name: str, reporter: Reporter
) -> None:
    """Write the exact front of a search space to the table, in place of a search."""
    if _stored_rows(tables, name):
        reporter.line("operating points: the exact front is already there")
        return
    reference = reference_accuracy(candidates)
    found, values = exact_points(spec, candidates, reference)
    if not found:
        networks = ", ".join(dict.fromkeys(candidate.trial_id for candidate in candidates))
        reporter.line(f"operating points: none of {networks} keeps to the constraints")
        return
    rows: list[dict[str, Any]] = []
    with reporter.task("operating points", len(found)) as task:
        for exact in found:
            metrics = {"split": "validation", **exact.point.evaluate()}
            rows.append(
                {
                    "number": len(rows),
                    "search": name,
                    "sampler": EXACT,
                    "batch_size": spec.batch_size,
                    "trial_id": exact.point.candidate.trial_id,
                    "state": "COMPLETE",
                    **exact.settings(),
                    **metrics,
                    **_judged(metrics, spec, reference),
                }
            )
            task.advance(len(rows), "exact front")
    volume = Yardstick.of(spec.objectives, candidates).of_values(values)
    for row in rows:
        row |= {"hypervolume": volume, "hypervolume_ratio": 1.0 if volume else None}
    write_part(tables, TABLE, rows, next_part(tables, TABLE))


def _is_over(spec: OperatingPointsSpec, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a search has nothing left to ask; ``rows`` end with a whole batch."""
    if len(rows) >= spec.trials:
        return True
    if not rows:
        return False
    if _reached(spec, rows[-1]["hypervolume_ratio"]):
        return True
    volumes = [row["hypervolume"] for row in rows[spec.batch - 1 :: spec.batch]]
    return spec.stop.plateau is not None and on_plateau(volumes, spec.stop.plateau)


def _reached(spec: OperatingPointsSpec, ratio: float | None) -> bool:
    wanted = spec.stop.hypervolume_ratio
    # Two ways of adding the same costs differ in the last bits.
    return wanted is not None and ratio is not None and ratio >= wanted - 1e-9


def _exact_hypervolume(
    spec: OperatingPointsSpec, candidates: Sequence[Candidate], yardstick: Yardstick, reporter: Reporter
) -> float | None:
    """The hypervolume of the exact front; None where the space has none.

    Under frequency rules it takes minutes, not seconds: there it is computed only where the search stops by it.
    """
    slow = spec.dvfs.values != ("none",) and spec.stop.hypervolume_ratio is None
    if uncovered(spec) is not None or slow:
        return None
    start = time.perf_counter()
    _, values = exact_points(spec, candidates, reference_accuracy(candidates))
    reporter.line(f"exact front of the space searched: {len(values)} points in {time.perf_counter() - start:.1f} s")
    return yardstick.of_values(values)


def _progress(rows: Iterable[Mapping[str, Any]], points: int) -> str:
    done = [row for row in rows if row["state"] == "COMPLETE"]
    if not done:
        return "no point yet"
    ratio = done[-1]["hypervolume_ratio"]
    share = "" if ratio is None else f", {ratio:.1%} of the exact front's hypervolume"
    return f"{points} points, best validation accuracy {max(row['accuracy'] for row in done):.4f}{share}"


def export_journal(study: optuna.Study, path: Path) -> None:
    """Write an Optuna study as a journal, for ``optuna-dashboard``. It is never read back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "journal.log"
        storage = JournalStorage(JournalFileBackend(str(draft)))
        copy = optuna.create_study(study_name=path.stem, directions=study.directions, storage=storage)
        copy.add_trials(study.trials)
        write_atomic(path, draft.read_bytes())


def _one_trial(
    study: optuna.Study,
    spec: OperatingPointsSpec,
    candidates: Sequence[Candidate],
    number: int,
    seed: int,
    name: str,
    known: dict[object, int],
    by_number: Mapping[int, Mapping[str, Any]],
) -> dict[str, Any]:
    """Ask for one trial, replay it, tell the result; returns its row."""
    trial = _ask(study, spec, number, seed)
    row: dict[str, Any] = {"number": number, "search": name, "sampler": spec.sampler, "batch_size": spec.batch_size}
    try:
        point = suggest(trial, candidates, spec)
        row |= {"trial_id": point.candidate.trial_id, **point.settings()}
        if point.key in known:
            row["repeat_of"] = known[point.key]
            original = by_number[known[point.key]]
            metrics: dict[str, Any] = {column: original.get(column) for column in _METRICS}
        else:
            metrics = {"split": "validation", **point.evaluate()}
            metrics |= _judged(metrics, spec, reference_accuracy(candidates))
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
        known.setdefault(point.key, number)
    row["params"] = json.dumps(trial.params)
    row["distributions"] = json.dumps({key: distribution_to_json(d) for key, d in trial.distributions.items()})
    return row


_NAMES = SCHEMAS[TABLE].names
_METRICS = _NAMES[_NAMES.index("split") : _NAMES.index("sampler")]
"""Columns that a point's settings decide."""


def _judged(metrics: Mapping[str, Any], spec: OperatingPointsSpec, reference: float) -> dict[str, Any]:
    exceeded = constraint_values(metrics, spec.constraints.limits, reference)
    return {"constraints": json.dumps(exceeded), "feasible": all(value <= 0 for value in exceeded.values())}


_STATEFUL = ("qmc", "nsga2", "nsga3")
"""QMC counts what it drew; NSGA keeps the parents of each generation."""


def _ask(study: optuna.Study, spec: OperatingPointsSpec, number: int, seed: int) -> optuna.Trial:
    """The next trial, whatever was asked before this process started."""
    if spec.sampler != "qmc":
        state = np.random.SeedSequence([seed, number]).generate_state(1)
        study.sampler = make_sampler(spec.sampler, int(state[0]))
    return study.ask()


def _rebuild(
    study: optuna.Study,
    rows: Sequence[Mapping[str, Any]],
    spec: OperatingPointsSpec,
    candidates: Sequence[Candidate],
    seed: int,
) -> None:
    """Bring a new study to where the table stands.

    Samplers that keep a state of their own beside the trials are asked everything again, which costs next to nothing
    for them; to the others the stored trials are added.

    Raises:
        UserError: asked again, such a sampler answers otherwise than the table says.
    """
    if spec.sampler == "qmc":
        study.sampler = make_sampler("qmc", seed)
    for number, row in enumerate(rows):
        values = [row[COLUMNS[objective]] for objective in spec.objectives]
        complete = row["state"] == "COMPLETE"
        if spec.sampler in _STATEFUL:
            trial = _ask(study, spec, number, seed)
            with contextlib.suppress(UserError):
                suggest(trial, candidates, spec)
            if trial.params != json.loads(row["params"]):
                raise UserError(
                    f"sampler {spec.sampler} does not repeat trial {number} of the stored search, which was made with "
                    "other versions; remove the table operating_points to search again"
                )
            for limit, exceeded in json.loads(row["constraints"] or "{}").items():
                trial.set_constraint(limit, exceeded)
            study.tell(trial, values if complete else None, state=None if complete else TrialState.FAIL)
            continue
        distributions = {key: json_to_distribution(d) for key, d in json.loads(row["distributions"]).items()}
        study.add_trial(
            optuna.create_trial(
                state=TrialState.COMPLETE if complete else TrialState.FAIL,
                params=json.loads(row["params"]),
                distributions=distributions,
                values=values if complete else None,
                constraints=json.loads(row["constraints"] or "{}"),
            )
        )


def _stored_rows(tables: Path, name: str) -> list[dict[str, Any]]:
    if not part_count(tables, TABLE):
        return []
    table = read_table(tables, TABLE)
    rows = sorted(rows_of(table[table["search"] == name]), key=lambda row: int(row["number"]))
    if [row["number"] for row in rows] != list(range(len(rows))):
        raise UserError(f"{tables / TABLE} lacks a part: put it back, or remove the folder to search again")
    return rows


def point_of(row: Mapping[str, Any], candidates: Sequence[Candidate]) -> OperatingPoint:
    """The operating point that a row of the table describes."""
    candidate = find_candidate(candidates, row["trial_id"], row["precision"])
    kind, criterion = row["policy"], cast(Criterion, row["criterion"] or "logit")
    beta = row["beta"] if row["betas"] is None else tuple(row["betas"])
    policy: Policy
    if kind == "classic":
        policy = Classic()
    elif kind == "static":
        policy = Static(int(row["exits"][0]))
    elif kind == "placed":
        policy = Placed(beta, tuple(int(exit) for exit in row["exits"]), criterion)
    elif kind == "hierarchical":
        policy = Hierarchical(beta, int(row["start_layer"]), criterion)
    else:
        policy = Predictive(beta, int(row["start_layer"]), int(row["max_jump"]), row["overshoot"])
    return OperatingPoint(candidate, row["statistic"], policy, row["beta_quantile"], row["dvfs"])
