"""Phase 2: an Optuna search over inference settings, on replayed traces.

The table ``operating_points`` is the only record of a search; it is written in batches. Every start rebuilds the Optuna
study in memory from the table. Trial n is asked of a sampler that is seeded by (seed, n), so that an interrupted search
goes on exactly as if it had not been interrupted. A batch that was not written is asked again.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import pandas as pd
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial

from results.parts import next_part, part_of, read_or_empty, rows_of, write_part
from results.point_text import setting_text
from results.storage.atomic import write_atomic
from results.storage.paths import Location
from search_spaces.spec import OperatingPointsSpec
from study.errors import UserError
from study.progress import Reporter
from study.search.exact_search import exact_points, uncovered
from study.search.hypervolume import HypervolumeIndicator
from study.search.space import judge
from study.search.state import SearchState, has_ratio, is_over
from study.search.traced_network import TracedNetwork, reference_network

TABLE = "operating_points"
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
    stored = _stored_rows(tables, name)
    journal = tables.parent / "optuna" / f"{name}.log"
    if _is_whole(spec, stored) and journal.exists():
        reporter.line(f"operating points: {len(stored)} are already there")
        return
    state = SearchState(spec, networks, seed, name)
    # A short batch of a smaller study is asked again as a whole batch, in place of the part that holds it. All batches,
    # and all decisions at the end of a batch, are then those of a study that had the present size from the start.
    short, short_part = _short_batch(spec, stored, tables)
    stored = stored[stored["number"] < short]
    numbers = frozenset(stored["number"])
    truth: float | None = None
    asked = 0
    with reporter.task("operating points", spec.trials) as task:
        while not state.is_over():
            place = int(stored["number"].searchsorted(state.done))
            rows = enumerate(rows_of(stored.iloc[place : place + spec.batch]), start=state.done)
            batch = [row for number, row in rows if row["number"] == number]
            if batch:
                state.replay_stored(batch)
            else:
                if not asked:
                    truth = _exact_hypervolume(spec, networks, state.indicator, reporter)
                part = short_part if state.done == short else next_part(tables, TABLE)
                batch = state.ask_new(numbers, truth)
                write_part(tables, TABLE, [{**row, **(stamp or {})} for row in batch], part)
                asked += len(batch)
            task.advance(state.done, state.text())
    if state.done < spec.trials:
        reached = has_ratio(spec, state.ratio)
        why = "the hypervolume_ratio is reached" if reached else "the hypervolume is on a plateau"
        reporter.line(f"operating points: stopped after {state.done} of {spec.trials} trials: {why}")
    if asked or not journal.exists():
        export_journal(state.study, journal, spec.objectives, _stored_rows(tables, name))


def _stored_rows(tables: Location, name: str) -> pd.DataFrame:
    """The rows of a search that earlier starts wrote. Rows of a damaged part are missing, and are asked again."""
    table = read_or_empty(tables, TABLE)
    rows = table[table["search"] == name].sort_values("number", ignore_index=True)
    twice = rows["number"][rows["number"].duplicated()]
    if len(twice):
        raise UserError(f"{tables / TABLE} holds trial {twice.iloc[0]} of search {name} twice: remove one of its parts")
    return rows


def _short_batch(spec: OperatingPointsSpec, stored: pd.DataFrame, tables: Location) -> tuple[float, str]:
    """First number and part of the last batch, if a larger study makes the batch longer; infinity if none does."""
    end = int(stored["number"].iloc[-1]) + 1 if len(stored) else 0
    first = (end - 1) // spec.batch * spec.batch
    part = None
    if 0 < end < min(first + spec.batch, spec.trials):
        expected = [(stored["search"].iloc[0], number) for number in range(first, end)]
        part = part_of(tables, TABLE, ["search", "number"], expected)
    return (first, part) if part else (float("inf"), "")


def _is_whole(spec: OperatingPointsSpec, stored: pd.DataFrame) -> bool:
    """Whether the stored rows are all rows of the search, so that nothing needs to be asked."""
    if stored.empty or stored["number"].iloc[-1] != len(stored) - 1:
        return False
    if len(stored) % spec.batch and len(stored) < spec.trials:
        return False  # the study was smaller, and its last batch is short
    ends = stored["hypervolume"].iloc[spec.batch - 1 :: spec.batch].tolist()
    return is_over(spec, len(stored), stored["hypervolume_ratio"].iloc[-1], ends)


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
    if len(_stored_rows(tables, name)):
        reporter.line("operating points: the exact front is already there")
        return
    reference = reference_network(networks).classic_accuracy
    found, values = exact_points(spec, networks, reference)
    if not found:
        trials = ", ".join(dict.fromkeys(network.trial_id for network in networks))
        reporter.line(f"operating points: no operating point of {trials} keeps the constraints")
        return
    volume = HypervolumeIndicator.of(spec.objectives, networks).of_values(values)
    shared = {
        "search": name,
        "sampler": EXACT,
        "batch_size": spec.batch_size,
        "state": "COMPLETE",
        "hypervolume": volume,
        "hypervolume_ratio": 1.0 if volume else None,
        **(stamp or {}),
    }
    rows: list[dict[str, Any]] = []
    with reporter.task("operating points", len(found)) as task:
        for point in found:
            judged = judge(point, spec.constraints.limits, reference)
            rows.append({"number": len(rows), **shared, **point.settings(), **judged})
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


_ATTRIBUTES = (
    *("error", "repeat_of", "trial_id", "precision", "policy", "accuracy", "flops", "energy_joules"),
    *("latency_mean_seconds", "memory_bytes", "mean_exit", "feasible"),
)
"""Columns of the table that the journal holds as user attributes of the trials."""


def export_journal(study: optuna.Study, path: Location, objectives: Sequence[str], rows: pd.DataFrame) -> None:
    """Write an Optuna study as a journal for ``optuna-dashboard``. This program never reads the journal.

    The journal has the names and directions of the objectives and the constraints, so that the dashboard draws the
    Pareto front of the trials that keep the constraints, and user attributes that say what each trial is.

    Args:
        study: of the search.
        path: of the journal.
        objectives: of the search.
        rows: of the search, in the table ``operating_points``.
    """
    by_number = {row["number"]: row for row in rows_of(rows)}
    backend = _MemoryBackend()
    storage = JournalStorage(backend)
    copy = optuna.create_study(study_name=path.stem, directions=study.directions, storage=storage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        copy.set_metric_names(list(objectives))
    for name in ("energy_source", "latency_source", "device"):
        if known := sorted(rows[name].dropna().unique()):
            copy.set_user_attr(name, ", ".join(known))
    copy.add_trials(_described(trial, by_number[trial.number]) for trial in study.trials)
    write_atomic(path, backend.content())


class _MemoryBackend(BaseJournalBackend):
    """A journal in memory: Optuna's file would be flushed to the disk with each trial."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lines[log_number_from:]]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._lines += [json.dumps(log, separators=(",", ":")) for log in logs]

    def content(self) -> bytes:
        """What Optuna's ``JournalFileBackend`` reads: one line of JSON for each entry."""
        return "".join(f"{line}\n" for line in self._lines).encode()


def _described(trial: FrozenTrial, row: Mapping[str, Any]) -> FrozenTrial:
    """A trial with user attributes from its row, and its constraints also as the list that the dashboard reads."""
    attributes = {name: row[name] for name in _ATTRIBUTES if row[name] is not None}
    if row["policy"] is not None:
        attributes["setting"] = setting_text(row)
    return optuna.trial.create_trial(
        state=trial.state,
        params=trial.params,
        distributions=trial.distributions,
        values=trial.values,
        constraints=trial.constraints,
        system_attrs={"constraints": list(trial.constraints.values())} if trial.constraints else {},
        user_attrs=attributes,
    )
