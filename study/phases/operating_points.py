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
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

from results.files import write_atomic
from results.locations import Location
from results.tables import SCHEMAS, empty_table, next_part, part_count, read_table, rows_of, write_part
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
        candidates: the networks to choose among.
        tables: the run folder's ``tables``.
        seed: of the study.
        name: of this search, in the table.
        reporter: told the number of trials done.
        stamp: columns that all new rows share: the data set, and what computes them.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    stored = _Stored(tables, name)
    journal = tables.parent / "optuna" / f"{name}.log"
    if stored.is_whole(spec) and journal.exists():
        reporter.line(f"operating points: {len(stored)} are already there")
        return
    course = _Course(spec, candidates, Yardstick.of(spec.objectives, candidates))
    study = _new_study(spec, seed)
    truth: float | None = None
    fresh = 0
    with reporter.task("operating points", spec.trials) as task:
        while not course.is_over():
            batch = stored.batch(course.done, spec.batch)
            if batch:  # asked and told before: the study learns it again
                for row in batch:
                    _tell_again(study, row, spec, candidates, seed)
                    course.add(row)
            else:
                if not fresh:
                    truth = _exact_hypervolume(spec, candidates, course.yardstick, reporter)
                while len(batch) < spec.batch and course.done < spec.trials and course.done not in stored.numbers:
                    row = _one_trial(study, spec, candidates, course, seed)
                    batch.append({**row, "search": name, **(stamp or {})})
                    course.add(row)
                found = course.hypervolume()
                for row in batch:
                    row |= {"hypervolume": found, "hypervolume_ratio": found / truth if truth else None}
                fresh += len(batch)
                write_part(tables, TABLE, batch, next_part(tables, TABLE))
            course.end_batch(batch[-1])
            task.advance(course.done, course.text())
    if course.done < spec.trials:
        why = "the hypervolume_ratio is reached" if course.has_ratio() else "the hypervolume is on a plateau"
        reporter.line(f"operating points: stopped after {course.done} of {spec.trials} trials: {why}")
    if fresh or not journal.exists():
        export_journal(study, journal)


class _Stored:
    """The rows of a search that earlier starts wrote. A part that was damaged leaves a gap: it is asked again."""

    def __init__(self, tables: Location, name: str) -> None:
        table = read_table(tables, TABLE) if part_count(tables, TABLE) else empty_table(TABLE)
        self.rows = table[table["search"] == name].sort_values("number", ignore_index=True)
        self.numbers = frozenset(self.rows["number"])
        if len(self.numbers) < len(self.rows):
            number = self.rows["number"][self.rows["number"].duplicated()].iloc[0]
            raise UserError(f"{tables / TABLE} holds trial {number} of search {name} twice: remove one of its parts")

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, first: int, size: int) -> list[dict[str, Any]]:
        """At most ``size`` rows from number ``first`` on, up to the next gap."""
        place = int(self.rows["number"].searchsorted(first))
        rows = list(rows_of(self.rows.iloc[place : place + size]))
        return [row for number, row in enumerate(rows, start=first) if row["number"] == number]

    def is_whole(self, spec: OperatingPointsSpec) -> bool:
        """Whether nothing is missing, so that nothing needs to be replayed to know what is left."""
        if not len(self) or self.rows["number"].iloc[-1] != len(self) - 1:
            return False
        volumes = self.rows["hypervolume"].iloc[spec.batch - 1 :: spec.batch].tolist()
        return _is_over(spec, len(self), self.rows["hypervolume_ratio"].iloc[-1], volumes)


_REMEMBERED = 4096


class _Course:
    """How far a search has come. Of each trial it keeps for ever no more than the point that it stood for."""

    def __init__(self, spec: OperatingPointsSpec, candidates: Sequence[Candidate], yardstick: Yardstick) -> None:
        self.spec, self.candidates, self.yardstick = spec, candidates, yardstick
        self.done = 0
        self.known: dict[object, int] = {}
        """Point -> number of its first trial."""
        self.metrics: dict[int, dict[str, Any]] = {}
        """Number of a trial -> what its point is worth, of the latest ones: a repeat of these is not replayed."""
        self.best_accuracy = 0.0
        self.ratio: float | None = None
        self.volumes: list[float] = []
        """Hypervolume after each whole batch."""
        self.front = yardstick.values([])
        self.new: list[Mapping[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """The next trial."""
        if row["state"] == "COMPLETE":
            if row.get("repeat_of") is None:
                number = int(row["number"])
                self.known.setdefault(point_of(row, self.candidates).key, number)
                self.metrics[number] = {column: row.get(column) for column in _METRICS}
                if len(self.metrics) > _REMEMBERED:
                    del self.metrics[next(iter(self.metrics))]
            self.best_accuracy = max(self.best_accuracy, row["accuracy"])
            if row.get("feasible"):
                self.new.append(row)
        self.done += 1

    def hypervolume(self) -> float:
        """Of all feasible points so far."""
        self._join()
        return self.yardstick.of_values(self.front)

    def _join(self) -> None:
        if self.new:
            self.front = self.yardstick.join(self.front, self.yardstick.values(self.new))
            self.new = []

    def end_batch(self, last: Mapping[str, Any]) -> None:
        """Behind the last row of a batch, which tells what the batch came to."""
        self._join()
        self.ratio = last["hypervolume_ratio"]
        if self.done % self.spec.batch == 0:
            self.volumes.append(last["hypervolume"])

    def is_over(self) -> bool:
        """Whether there is nothing left to ask."""
        return _is_over(self.spec, self.done, self.ratio, self.volumes)

    def has_ratio(self) -> bool:
        """Whether the wanted share of the exact front is found."""
        return _reached(self.spec, self.ratio)

    def text(self) -> str:
        """For the progress."""
        if not self.known:
            return "no point yet"
        share = "" if self.ratio is None else f", {self.ratio:.1%} of the exact front's hypervolume"
        return f"{len(self.known)} points, best validation accuracy {self.best_accuracy:.4f}{share}"


def _new_study(spec: OperatingPointsSpec, seed: int) -> optuna.Study:
    maximize, minimize = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    directions = [maximize if objective == "accuracy" else minimize for objective in spec.objectives]
    # QMC counts what it drew: one sampler, with the study's own seed, draws everything.
    return optuna.create_study(directions=directions, sampler=make_sampler(spec.sampler, seed))


def list_exact_points(
    spec: OperatingPointsSpec,
    candidates: Sequence[Candidate],
    tables: Location,
    *,
    name: str,
    reporter: Reporter,
    stamp: Mapping[str, str] | None = None,
) -> None:
    """Write the exact front of a search space to the table, in place of a search."""
    if len(_Stored(tables, name)):
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
                    **(stamp or {}),
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


def _is_over(spec: OperatingPointsSpec, done: int, ratio: float | None, volumes: Sequence[float]) -> bool:
    """Whether a search has nothing left to ask, after ``done`` trials and these hypervolumes of its whole batches."""
    if done >= spec.trials or (done and _reached(spec, ratio)):
        return True
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
    study: optuna.Study, spec: OperatingPointsSpec, candidates: Sequence[Candidate], course: _Course, seed: int
) -> dict[str, Any]:
    """Ask for one trial, replay it, tell the result; returns its row."""
    number = course.done
    trial = _ask(study, spec, number, seed)
    row: dict[str, Any] = {"number": number, "sampler": spec.sampler, "batch_size": spec.batch_size}
    try:
        point = suggest(trial, candidates, spec)
        repeat_of = course.known.get(point.key)
        row |= {"trial_id": point.candidate.trial_id, **point.settings(), "repeat_of": repeat_of}
        metrics = course.metrics.get(-1 if repeat_of is None else repeat_of)
        if metrics is None:
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


def _tell_again(
    study: optuna.Study, row: Mapping[str, Any], spec: OperatingPointsSpec, candidates: Sequence[Candidate], seed: int
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
        suggest(trial, candidates, spec)
    if trial.params != params:
        raise UserError(
            f"sampler {spec.sampler} does not repeat trial {row['number']} of the stored search, which was made with "
            "other versions; remove the table operating_points to search again"
        )
    for limit, value in exceeded.items():
        trial.set_constraint(limit, value)
    study.tell(trial, values, state=None if complete else TrialState.FAIL)


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
