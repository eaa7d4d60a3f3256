"""Phase 2: an Optuna search over inference settings, on replayed traces.

The table ``operating_points`` is the only record of a search; it is written in batches. Every start rebuilds the Optuna
study in memory from the table. Trial n is asked of a sampler that is seeded by (seed, n), so that an interrupted search
goes on exactly as if it had not been interrupted. A batch that was not written is asked again.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection

from results.parts import next_part, write_part
from results.storage.atomic import write_atomic
from results.storage.paths import Location
from search_spaces.spec import OperatingPointsSpec
from study.errors import UserError
from study.progress import Reporter
from study.search.exact_search import exact_points, uncovered
from study.search.hypervolume import HypervolumeIndicator
from study.search.rows import Judged, OperatingPointRow, PointMetrics
from study.search.space import constraint_values, known_value
from study.search.state import TABLE, SearchState, StoredTrials
from study.search.suggest import make_sampler, suggest
from study.search.traced_network import TracedNetwork, reference_network
from study.storage.strict_json import dumps

_STATEFUL = ("qmc", "nsga2", "nsga3")
"""Samplers with a state of their own: QMC counts its draws, NSGA keeps the parents of each generation."""
EXACT = "exact"
"""The value of the column ``sampler`` where the exact front was computed instead of a search."""


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
    """Ask for trials until the table holds ``spec.trials`` trials of this search, or a reason to stop.

    Args:
        spec: the search space.
        networks: to choose from.
        tables: the run folder's ``tables``.
        seed: of the study.
        name: of this search, in the table.
        reporter: shows the number of finished trials.
        stamp: columns that all new rows share: the data set and the provenance.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    stored = StoredTrials(tables, name)
    journal = tables.parent / "optuna" / f"{name}.log"
    if stored.is_whole(spec) and journal.exists():
        reporter.line(f"operating points: {len(stored)} are already there")
        return
    running = _RunningSearch(spec, networks, seed, name)
    state, withdrawn = running.state, stored.withdraw_short_batch(spec)
    truth: float | None = None
    asked = 0
    with reporter.task("operating points", spec.trials) as task:
        while not state.is_over():
            batch = stored.batch(state.done, spec.batch)
            if batch:
                running.replay_stored(batch)
            else:
                if not asked:
                    truth = _exact_hypervolume(spec, networks, state.indicator, reporter)
                part = withdrawn.get(state.done) or next_part(tables, TABLE)
                batch = running.ask_new(stored.numbers, truth)
                write_part(tables, TABLE, [{**row.columns(), **(stamp or {})} for row in batch], part)
                asked += len(batch)
            state.end_batch(batch[-1])
            task.advance(state.done, state.text())
    if state.done < spec.trials:
        why = "the hypervolume_ratio is reached" if state.has_ratio() else "the hypervolume is on a plateau"
        reporter.line(f"operating points: stopped after {state.done} of {spec.trials} trials: {why}")
    if asked or not journal.exists():
        export_journal(running.study, journal)


class _RunningSearch:
    """An Optuna study in memory, and the state of the search."""

    def __init__(self, spec: OperatingPointsSpec, networks: Sequence[TracedNetwork], seed: int, name: str) -> None:
        self.spec, self.networks, self.seed, self.name = spec, networks, seed, name
        directions = [
            StudyDirection.MAXIMIZE if name == "accuracy" else StudyDirection.MINIMIZE for name in spec.objectives
        ]
        # The QMC sampler counts its draws: one sampler, with the seed of the study, draws all trials.
        self.study = optuna.create_study(directions=directions, sampler=make_sampler(spec.sampler, seed))
        self.state = SearchState(spec, networks, HypervolumeIndicator.of(spec.objectives, networks))
        self.reference_accuracy = reference_network(networks).classic_accuracy

    def replay_stored(self, batch: Sequence[OperatingPointRow]) -> None:
        """Tell the study the trials of a stored batch."""
        for row in batch:
            self._tell_again(row)
            self.state.add(row)

    def ask_new(self, stored: Collection[int], truth: float | None) -> list[OperatingPointRow]:
        """Ask for the trials of one batch, up to the next stored trial, and replay their points.

        Args:
            stored: numbers of the stored trials.
            truth: hypervolume of the exact front; None where it is not known.
        """
        batch: list[OperatingPointRow] = []
        state = self.state
        while len(batch) < self.spec.batch and state.done < self.spec.trials and state.done not in stored:
            batch.append(self._ask_one())
            state.add(batch[-1])
        volume = state.hypervolume()
        ratio = volume / truth if truth else None
        return [replace(row, hypervolume=volume, hypervolume_ratio=ratio) for row in batch]

    def _ask_one(self) -> OperatingPointRow:
        """Ask for one trial, replay its point and tell the study the result."""
        number = self.state.done
        trial = self._next_trial(number)
        row = OperatingPointRow(
            number=number, search=self.name, sampler=self.spec.sampler, batch_size=self.spec.batch_size, state="FAIL"
        )
        try:
            point = suggest(trial, self.networks, self.spec)
            repeat_of = self.state.known.get(point.key)
            row = replace(row, trial_id=point.network.trial_id, settings=point.settings(), repeat_of=repeat_of)
            judged = self.state.judged.get(-1 if repeat_of is None else repeat_of)
            if judged is None:
                judged = judge(point.evaluate(), self.spec, self.reference_accuracy)
            values = [known_value(judged.metrics.columns(), objective) for objective in self.spec.objectives]
            if not np.isfinite(values).all():
                raise UserError(f"an objective is not finite: {dict(zip(self.spec.objectives, values, strict=True))}")
        except UserError as error:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            row = replace(row, error=str(error))
        else:
            for limit, exceeded in judged.exceeded.items():
                trial.set_constraint(limit, exceeded)
            self.study.tell(trial, values)
            row = replace(row, state="COMPLETE", judged=judged)
        distributions = {key: distribution_to_json(one) for key, one in trial.distributions.items()}
        return replace(row, params=dumps(trial.params), distributions=dumps(distributions))

    def _next_trial(self, number: int) -> optuna.Trial:
        """The next trial; the same one whether or not earlier trials were asked by this process."""
        if self.spec.sampler != "qmc":
            state = np.random.SeedSequence([self.seed, number]).generate_state(1)
            self.study.sampler = make_sampler(self.spec.sampler, int(state[0]))
        return self.study.ask()

    def _tell_again(self, row: OperatingPointRow) -> None:
        """Tell the study a stored trial.

        A sampler with a state of its own is asked for the trial again, without a replay, so that its state advances.
        For other samplers the stored trial is added.

        Raises:
            UserError: a sampler with a state of its own suggests other parameters than the stored ones.
        """
        judged, failed = row.judged, optuna.trial.TrialState.FAIL
        values, exceeded = None, {}
        if judged is not None:
            values = [known_value(judged.metrics.columns(), objective) for objective in self.spec.objectives]
            exceeded = dict(judged.exceeded)
        params, distributions = json.loads(row.params or "{}"), json.loads(row.distributions or "{}")
        if self.spec.sampler not in _STATEFUL:
            self.study.add_trial(
                optuna.create_trial(
                    state=failed if judged is None else optuna.trial.TrialState.COMPLETE,
                    params=params,
                    distributions={key: json_to_distribution(one) for key, one in distributions.items()},
                    values=values,
                    constraints=exceeded,
                )
            )
            return
        trial = self._next_trial(row.number)
        with contextlib.suppress(UserError):
            suggest(trial, self.networks, self.spec)
        if trial.params != params:
            raise UserError(
                f"sampler {self.spec.sampler} does not repeat trial {row.number} of the stored search, which was made "
                "with other versions; remove the table operating_points to search again"
            )
        for limit, value in exceeded.items():
            trial.set_constraint(limit, value)
        self.study.tell(trial, values, state=failed if judged is None else None)


def judge(metrics: PointMetrics, spec: OperatingPointsSpec, reference_accuracy: float) -> Judged:
    """Metrics with the excess over each constraint; a drop of accuracy counts from ``reference_accuracy``."""
    exceeded = constraint_values(metrics.columns(), spec.constraints.limits, reference_accuracy)
    return Judged(metrics=metrics, exceeded=exceeded)


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
    volume = HypervolumeIndicator.of(spec.objectives, networks).of_values(values)
    rows: list[dict[str, Any]] = []
    with reporter.task("operating points", len(found)) as task:
        for exact in found:
            row = OperatingPointRow(
                number=len(rows),
                search=name,
                sampler=EXACT,
                batch_size=spec.batch_size,
                state="COMPLETE",
                trial_id=exact.point.network.trial_id,
                settings=exact.settings(),
                judged=judge(exact.point.evaluate(), spec, reference),
                hypervolume=volume,
                hypervolume_ratio=1.0 if volume else None,
            )
            rows.append({**row.columns(), **(stamp or {})})
            task.advance(len(rows), "exact front")
    write_part(tables, TABLE, rows, next_part(tables, TABLE))


def _exact_hypervolume(
    spec: OperatingPointsSpec, networks: Sequence[TracedNetwork], indicator: HypervolumeIndicator, reporter: Reporter
) -> float | None:
    """The hypervolume of the exact front; None where the front cannot be computed exactly.

    Under frequency rules the exact front takes minutes. There it is computed only for a search that stops at a ratio of
    its hypervolume.
    """
    slow = spec.dvfs.values != ("none",) and spec.stop.hypervolume_ratio is None
    if uncovered(spec) is not None or slow:
        return None
    start = time.perf_counter()
    _, values = exact_points(spec, networks, reference_network(networks).classic_accuracy)
    reporter.line(f"exact front of the space searched: {len(values)} points in {time.perf_counter() - start:.1f} s")
    return indicator.of_values(values)


def export_journal(study: optuna.Study, path: Location) -> None:
    """Write an Optuna study as a journal for ``optuna-dashboard``. This program never reads the journal."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "journal.log"
        storage = JournalStorage(JournalFileBackend(str(draft)))
        copy = optuna.create_study(study_name=path.stem, directions=study.directions, storage=storage)
        copy.add_trials(study.trials)
        write_atomic(path, draft.read_bytes())
