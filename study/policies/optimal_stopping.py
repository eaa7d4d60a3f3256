"""Optimal stopping: at each exit, a fitted table decides whether to stop and which exit to try next.

The prediction engine asks at which exit a sample will stop. Optimal stopping asks what going on is worth. The table of
an exit divides the scale of the score into intervals. In each interval the table holds one action: stop, or the exit
that is tried next. :mod:`study.fronts.optimal_stopping` fits the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from search_spaces.words import short
from study.arrays import Booleans, Floats
from study.errors import UserError
from study.policies.base import Decision, Policy, Ratios
from study.storage.strict_json import dumps, parse_json

STOP = 0
"""The action that stops. Every other action is the number of the exit tried next."""


@dataclass(frozen=True)
class ExitTable:
    """What to do at one exit, for each interval of the score.

    Args:
        bounds: k rising scores. Action i holds for scores from ``bounds[i - 1]`` to below ``bounds[i]``.
        actions: k + 1 actions: :data:`STOP`, or the exit tried next.

    Raises:
        UserError: bounds do not rise, or the number of actions is not k + 1.
    """

    bounds: tuple[float, ...]
    actions: tuple[int, ...]

    def __post_init__(self) -> None:
        bounds = np.asarray(self.bounds, dtype=np.float64)
        if not (np.isfinite(bounds).all() and (np.diff(bounds) > 0).all()):
            raise UserError(f"optimal_stopping: bounds are {short(list(self.bounds))}, but must be rising numbers")
        if len(self.actions) != len(self.bounds) + 1:
            raise UserError(
                f"optimal_stopping: {len(self.actions)} actions for {len(self.bounds)} bounds: one more is needed"
            )

    def at(self, scores: Floats) -> np.ndarray[Any, np.dtype[np.int64]]:
        """``[B]``: the actions at some scores ``[B]``."""
        return np.asarray(self.actions, dtype=np.int64)[np.searchsorted(self.bounds, scores, side="right")]


@dataclass(frozen=True)
class OptimalStopping(Policy):
    """Weigh going on against stopping, by tables that were fitted to calibration images.

    The score is the criterion ``log_margin``. Heads of exits that are jumped over do not run.

    Args:
        first: the first exit tried; E + 1 for none.
        tables: exit -> its table, for every exit that a sample can try.
        price: accuracy that a whole run of the classic network is worth, for which the tables were fitted.

    Raises:
        UserError: an action does not lead to a later exit.
    """

    first: int
    tables: Mapping[int, ExitTable]
    price: float
    name = "optimal_stopping"
    criterion = "log_margin"
    fitted = True

    def __post_init__(self) -> None:
        if not (np.isfinite(self.price) and self.price >= 0):
            raise UserError(f"optimal_stopping: price is {short(self.price)}, but must be a number from 0")
        for exit, table in self.tables.items():
            if any(action != STOP and action <= exit for action in table.actions):
                raise UserError(
                    f"optimal_stopping: exit {short(exit)} leads to {short(list(table.actions))}, not to later exits"
                )
        object.__setattr__(self, "tables", {exit: self.tables[exit] for exit in sorted(self.tables)})

    def __hash__(self) -> int:
        return hash((self.first, tuple(self.tables.items()), self.price))

    @cached_property
    def _reachable(self) -> frozenset[int]:
        """The exits that a sample can reach, and E + 1 if a sample can reach the classifier."""
        found, open_exits = {self.first}, [self.first]
        while open_exits:
            table = self.tables.get(open_exits.pop())
            new = set() if table is None else set(table.actions) - {STOP} - found
            found |= new
            open_exits += new
        return frozenset(found)

    def first_exit(self, exit_count: int) -> int:
        """``first``."""
        if min(self._reachable) < 1 or not all(1 <= exit <= exit_count for exit in self.tables):
            raise UserError(f"optimal_stopping: the tables are of another network than one with {exit_count} exits")
        if missing := self._reachable - self.tables.keys() - {exit_count + 1}:
            raise UserError(f"optimal_stopping: exit {min(missing)} of {exit_count} has no table")
        return self.first

    def depth(self, exit_count: int) -> int:
        """The last exit that the tables lead to."""
        return max(self._reachable)

    def heads_it_may_run(self, exit_count: int) -> Booleans:
        """``[E]``: the exits that the tables lead to."""
        return np.isin(np.arange(1, exit_count + 1), list(self._reachable))

    def decide(self, ratios: Ratios, *, exit: int, exit_count: int, beta: Floats | None = None) -> Decision:
        """Look up the score in the table of the exit."""
        actions = self.tables[exit].at(ratios.stop)
        return Decision(actions == STOP, actions, np.zeros_like(actions))

    def decision_flops(self, classes: int) -> float:
        """Of a table of at most 16 intervals; a longer one costs a comparison or two more."""
        return decision_flops(classes)

    def to_row(self) -> dict[str, Any]:
        """The tables as JSON in the column ``rule``."""
        exits = [{"exit": exit, "bounds": one.bounds, "actions": one.actions} for exit, one in self.tables.items()]
        rule = dumps({"first": self.first, "exits": exits})
        return {**super().to_row(), "price": self.price, "rule": rule}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> OptimalStopping:
        """The policy of a row of a table.

        Raises:
            UserError: the column ``rule`` holds no tables.
        """
        try:
            rule = parse_json(row["rule"])
            tables = {
                _whole(one["exit"]): ExitTable(tuple(map(_number, one["bounds"])), tuple(map(_whole, one["actions"])))
                for one in rule["exits"]
            }
            if not isinstance(rule["exits"], list) or len(tables) < len(rule["exits"]):
                raise ValueError("an exit has two tables")
            return cls(_whole(rule["first"]), tables, float(row["price"]))
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise UserError(f"column rule: this is no table of optimal_stopping ({short(error, 200)})") from None


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**31:
        raise ValueError(f"{short(value)} is no exit")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{short(value)!r} is no bound")
    return float(value)


def ladder(thresholds: Floats, price: float) -> OptimalStopping:
    """Thresholds of each head as tables: stop where the score reaches the threshold, else try the next exit.

    Args:
        thresholds: ``[E]``; an exit with an infinite threshold is not tried.
        price: for which the thresholds were fitted.
    """
    exits = [int(exit) for exit in np.flatnonzero(np.isfinite(thresholds)) + 1]
    following = [*exits, len(thresholds) + 1]
    tables = {
        exit: ExitTable((float(thresholds[exit - 1]),), (after, STOP))
        for exit, after in zip(exits, following[1:], strict=True)
    }
    return OptimalStopping(following[0], tables, price)


def decision_flops(classes: int, actions: int = 16) -> float:
    """Operations of a decision: five a class for the score (a shift, an exponential, a sum and two maxima), a division,
    a logarithm, and the search among ``actions`` intervals."""
    return 5 * classes + 2 + float(np.ceil(np.log2(max(actions, 1))))
