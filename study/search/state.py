"""How far a search of phase 2 has come: the rows that are stored, and what is known of the trials so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from results.parts import empty_table, part_count, part_of, read_table, rows_of
from results.schemas import CONSTRAINTS, METRICS
from results.storage.paths import Location
from search_spaces.spec import OperatingPointsSpec
from study.errors import UserError
from study.policies.policies import policy_from_row
from study.search.hypervolume import HypervolumeIndicator, on_plateau
from study.search.operating_point import OperatingPoint
from study.search.traced_network import TracedNetwork, find_network

TABLE = "operating_points"
_METRICS = (*METRICS, *CONSTRAINTS)
"""Columns that a point's settings decide."""


class StoredTrials:
    """The rows of a search that earlier starts wrote. A part that was damaged leaves a gap: it is asked again."""

    def __init__(self, tables: Location, name: str) -> None:
        table = read_table(tables, TABLE) if part_count(tables, TABLE) else empty_table(TABLE)
        self.tables, self.name = tables, name
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

    def withdraw(self, batch: Sequence[Mapping[str, Any]]) -> str | None:
        """Forget the rows of the last batch; returns the name of the part that they are, to be replaced.

        Where they are no part of their own, as an earlier version left them, nothing is forgotten: None.
        """
        part = part_of(self.tables, TABLE, ["search", "number"], [(self.name, row["number"]) for row in batch])
        if part is not None:
            self.rows = self.rows[self.rows["number"] < batch[0]["number"]]
            self.numbers = frozenset(self.rows["number"])
        return part

    def is_whole(self, spec: OperatingPointsSpec) -> bool:
        """Whether nothing is missing, so that nothing needs to be replayed to know what is left."""
        if not len(self) or self.rows["number"].iloc[-1] != len(self) - 1:
            return False
        if len(self) % spec.batch and len(self) < spec.trials:
            return False  # of a smaller study: its last batch is no whole one
        volumes = self.rows["hypervolume"].iloc[spec.batch - 1 :: spec.batch].tolist()
        return _is_over(spec, len(self), self.rows["hypervolume_ratio"].iloc[-1], volumes)


_REMEMBERED = 4096


class SearchState:
    """How far a search has come. Of each trial it keeps for ever no more than the point that it stood for."""

    def __init__(
        self, spec: OperatingPointsSpec, networks: Sequence[TracedNetwork], indicator: HypervolumeIndicator
    ) -> None:
        self.spec, self.networks, self.indicator = spec, networks, indicator
        self.done = 0
        self.known: dict[object, int] = {}
        """Point -> number of its first trial."""
        self.metrics: dict[int, dict[str, Any]] = {}
        """Number of a trial -> what its point is worth, of the latest ones: a repeat of these is not replayed."""
        self.best_accuracy = 0.0
        self.ratio: float | None = None
        self.volumes: list[float] = []
        """Hypervolume after each whole batch."""
        self.front = indicator.values([])
        self.new: list[Mapping[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """The next trial."""
        if row["state"] == "COMPLETE":
            if row.get("repeat_of") is None:
                number = int(row["number"])
                self.known.setdefault(point_of(row, self.networks).key, number)
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
        return self.indicator.of_values(self.front)

    def _join(self) -> None:
        if self.new:
            self.front = self.indicator.update_front(self.front, self.indicator.values(self.new))
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


def _is_over(spec: OperatingPointsSpec, done: int, ratio: float | None, volumes: Sequence[float]) -> bool:
    """Whether a search has nothing left to ask, after ``done`` trials and these hypervolumes of its whole batches."""
    if done >= spec.trials or (done and _reached(spec, ratio)):
        return True
    return spec.stop.plateau is not None and on_plateau(volumes, spec.stop.plateau)


def _reached(spec: OperatingPointsSpec, ratio: float | None) -> bool:
    wanted = spec.stop.hypervolume_ratio
    # Two ways of adding the same costs differ in the last bits.
    return wanted is not None and ratio is not None and ratio >= wanted - 1e-9


def point_of(row: Mapping[str, Any], networks: Sequence[TracedNetwork]) -> OperatingPoint:
    """The operating point that a row of the table describes."""
    network = find_network(networks, row["trial_id"], row["precision"])
    return OperatingPoint(network, row["statistic"], policy_from_row(row), row["beta_quantile"], row["dvfs"])
