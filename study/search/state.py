"""The state of a search of phase 2: the rows that are stored, and what the trials so far have found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from results.parts import part_of, read_or_empty, rows_of
from results.storage.paths import Location
from search_spaces.spec import OperatingPointsSpec
from study.errors import UserError
from study.policies.policies import policy_from_row
from study.search.hypervolume import HypervolumeIndicator, on_plateau
from study.search.operating_point import OperatingPoint
from study.search.rows import Judged, OperatingPointRow
from study.search.traced_network import TracedNetwork, find_network

TABLE = "operating_points"


class StoredTrials:
    """The rows of a search that earlier starts wrote. Rows of a damaged part are missing, and are asked again."""

    def __init__(self, tables: Location, name: str) -> None:
        table = read_or_empty(tables, TABLE)
        self.tables, self.name = tables, name
        self.rows = table[table["search"] == name].sort_values("number", ignore_index=True)
        self.numbers = frozenset(self.rows["number"])
        if len(self.numbers) < len(self.rows):
            number = self.rows["number"][self.rows["number"].duplicated()].iloc[0]
            raise UserError(f"{tables / TABLE} holds trial {number} of search {name} twice: remove one of its parts")

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, first: int, size: int) -> list[OperatingPointRow]:
        """At most ``size`` rows from number ``first`` on, up to the next missing row."""
        place = int(self.rows["number"].searchsorted(first))
        rows = enumerate(rows_of(self.rows.iloc[place : place + size]), start=first)
        return [OperatingPointRow.from_columns(row) for number, row in rows if row["number"] == number]

    def withdraw_short_batch(self, spec: OperatingPointsSpec) -> dict[int, str]:
        """Forget the last batch if it is shorter than a batch of this study, which is larger than it was.

        The batch is asked again as a whole batch. All batches, and all decisions at the end of a batch, are then
        those of a study that had the present size from the start.

        Returns:
            First number of the forgotten batch -> name of the part that holds the batch, to be replaced. Empty where
            nothing is forgotten.
        """
        if not len(self):
            return {}
        end = int(self.rows["number"].iloc[-1]) + 1
        first = (end - 1) // spec.batch * spec.batch
        part = None
        if end < min(first + spec.batch, spec.trials):
            part = part_of(self.tables, TABLE, ["search", "number"], [(self.name, n) for n in range(first, end)])
        if part is None:
            return {}
        self.rows = self.rows[self.rows["number"] < first]
        self.numbers = frozenset(self.rows["number"])
        return {first: part}

    def is_whole(self, spec: OperatingPointsSpec) -> bool:
        """Whether the stored rows are all rows of the search, so that nothing needs to be asked."""
        if not len(self) or self.rows["number"].iloc[-1] != len(self) - 1:
            return False
        if len(self) % spec.batch and len(self) < spec.trials:
            return False  # the study was smaller, and its last batch is short
        ends = self.rows.iloc[spec.batch - 1 :: spec.batch]
        return _is_over(spec, len(self), self.rows["hypervolume_ratio"].iloc[-1], ends["hypervolume"].tolist())


_REMEMBERED = 4096
"""Trials whose metrics are kept in memory."""


class SearchState:
    """What the trials of a search have found so far. Of each trial only its point is kept for the whole search."""

    def __init__(
        self, spec: OperatingPointsSpec, networks: Sequence[TracedNetwork], indicator: HypervolumeIndicator
    ) -> None:
        self.spec, self.networks, self.indicator = spec, networks, indicator
        self.done = 0
        self.known: dict[object, int] = {}
        """Point -> number of the first trial of the point."""
        self.judged: dict[int, Judged] = {}
        """Number of a trial -> metrics of its point, for the latest trials: a repeat of the point is not replayed."""
        self.best_accuracy = 0.0
        self.ratio: float | None = None
        self.volumes: list[float] = []
        """The hypervolume after each whole batch."""
        self.front = indicator.values([])
        self._new: list[Judged] = []

    def add(self, row: OperatingPointRow) -> None:
        """Add the next trial."""
        if row.judged is not None:
            if row.repeat_of is None:
                self.known.setdefault(point_of(row.columns(), self.networks).key, row.number)
                self.judged[row.number] = row.judged
                if len(self.judged) > _REMEMBERED:
                    del self.judged[next(iter(self.judged))]
            self.best_accuracy = max(self.best_accuracy, row.judged.metrics.accuracy)
            if row.judged.feasible:
                self._new.append(row.judged)
        self.done += 1

    def hypervolume(self) -> float:
        """The hypervolume of all feasible points so far."""
        self._update_front()
        return self.indicator.of_values(self.front)

    def _update_front(self) -> None:
        if self._new:
            values = self.indicator.values(one.metrics.columns() for one in self._new)
            self.front = self.indicator.update_front(self.front, values)
            self._new = []

    def end_batch(self, last: OperatingPointRow) -> None:
        """Take over the hypervolume at the end of a batch from the last row of the batch."""
        self._update_front()
        self.ratio = last.hypervolume_ratio
        if self.done % self.spec.batch == 0:
            assert last.hypervolume is not None, "every row of a search has a hypervolume"
            self.volumes.append(last.hypervolume)

    def is_over(self) -> bool:
        """Whether no further trial is to be asked."""
        return _is_over(self.spec, self.done, self.ratio, self.volumes)

    def has_ratio(self) -> bool:
        """Whether the hypervolume ratio at which the study stops is reached."""
        return _reached(self.spec, self.ratio)

    def text(self) -> str:
        """The state as a text for the progress display."""
        if not self.known:
            return "no point yet"
        share = "" if self.ratio is None else f", {self.ratio:.1%} of the exact front's hypervolume"
        return f"{len(self.known)} points, best validation accuracy {self.best_accuracy:.4f}{share}"


def _is_over(spec: OperatingPointsSpec, done: int, ratio: float | None, volumes: Sequence[float]) -> bool:
    """Whether a search is over after ``done`` trials, with these hypervolumes after its whole batches."""
    if done >= spec.trials or (done and _reached(spec, ratio)):
        return True
    return spec.stop.plateau is not None and on_plateau(volumes, spec.stop.plateau)


def _reached(spec: OperatingPointsSpec, ratio: float | None) -> bool:
    wanted = spec.stop.hypervolume_ratio
    # Sums of the same costs in another order differ in their last bits.
    return wanted is not None and ratio is not None and ratio >= wanted - 1e-9


def point_of(row: Mapping[str, Any], networks: Sequence[TracedNetwork]) -> OperatingPoint:
    """The operating point that a row of the table describes."""
    network = find_network(networks, row["trial_id"], row["precision"])
    return OperatingPoint(network, row["statistic"], policy_from_row(row), row["beta_quantile"], row["dvfs"])
