"""Fit the tables of :class:`study.policies.optimal_stopping.OptimalStopping` to calibration images.

Least-squares Monte Carlo (Longstaff and Schwartz, 2001), backward over the exits. A right answer is worth 1. A whole
run of the classic network costs the *price*. At exit l, with the score s of a sample:

- P_l(s) estimates the chance that the exit's answer is right;
- Q_lm(s) estimates the return of going on to exit m > l (or to the classifier): the worth of the answer that the sample
  then gets under the tables of the later exits, minus the costs of the segments and heads on the way.

Both are regressions on the same basis: piecewise-linear functions of the score with knots at its quantiles, and a ridge
penalty towards the mean. One small linear system an exit gives all of them. The table of the exit says *stop* where P_l
is at least every Q_lm, and otherwise the exit m with the largest Q_lm. P and Q are linear between knots, so that the
bounds of the table are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from study.arrays import Floats, concurrently
from study.fronts.priced_paths import PathShares
from study.policies.optimal_stopping import STOP, ExitTable, OptimalStopping


@dataclass(frozen=True)
class Basis:
    """Piecewise-linear functions of a score, constant outside the knots, with a ridge penalty."""

    knots: int = 6
    ridge: float = 3.0

    def at(self, scores: Floats) -> Floats:
        """``[K]``: distinct knots at evenly spaced quantiles of scores ``[N]``; at least two."""
        knots = np.unique(np.quantile(scores, np.linspace(0.0, 1.0, self.knots)))
        return knots if len(knots) > 1 else np.array([knots[0], knots[0] + 1.0])


class _Regressions(NamedTuple):
    """The regressions of all exits. Only their targets depend on the price."""

    knots: list[Floats]
    """E times ``[K_l]``."""
    left: NDArray[np.int32]
    """``[E, N]``, the knot on the left of a score."""
    weight: Floats
    """``[E, N]``, the weight of the knot on the right."""
    inverse: Floats
    """``[E, K, K]``, of the normal equations with the ridge; K is the largest K_l."""
    mass: Floats
    """``[E, K]``, the sums of the basis functions over the samples."""


def fit_by_regression(
    scores: Floats, right: NDArray[np.int8], paths: PathShares, prices: Sequence[float], basis: Basis
) -> list[OptimalStopping]:
    """One policy for each price.

    O(N E^2) for each price. The memory is a few arrays of N x E numbers for each thread.

    Args:
        scores: ``[N, E]``, ``log_margin`` of the calibration images.
        right: ``[N, E+1]``, whether the answer of an exit is right.
        paths: costs of segments and heads.
        prices: accuracy that a whole run of the classic network is worth.
        basis: of the regressions.
    """
    regressions = _regressions(scores, basis)
    return concurrently(lambda price: _fit(regressions, right, paths, price), prices)


def _regressions(scores: Floats, basis: Basis) -> _Regressions:
    samples, exits = scores.shape
    knots = [basis.at(own) for own in scores.T]
    left, weight = np.empty((exits, samples), dtype=np.int32), np.empty((exits, samples))
    inverse, mass = np.zeros((exits, basis.knots, basis.knots)), np.zeros((exits, basis.knots))
    for exit, own in enumerate(knots):
        count, inside = len(own), np.clip(scores[:, exit], own[0], own[-1])
        left[exit] = np.clip(np.searchsorted(own, inside, side="right") - 1, 0, count - 2)
        weight[exit] = (inside - own[left[exit]]) / (own[left[exit] + 1] - own[left[exit]])
        functions = np.zeros((count, samples))
        functions[left[exit], np.arange(samples)] = 1 - weight[exit]
        functions[left[exit] + 1, np.arange(samples)] = weight[exit]
        # einsum without BLAS: the sums, and so the tables, do not depend on the number of threads.
        system = np.einsum("in,jn->ij", functions, functions) + basis.ridge * np.eye(count)
        inverse[exit, :count, :count] = np.linalg.inv(system)
        mass[exit, :count] = functions.sum(axis=1)
    return _Regressions(knots, left, weight, inverse, mass)


def _fit(of: _Regressions, right: NDArray[np.int8], paths: PathShares, price: float) -> OptimalStopping:
    """The policy of one price, backward over the exits."""
    from study.fronts.stopping_kernels import fit_backward

    samples, last = right.shape
    coefficients, returns = np.zeros((last - 1, of.mass.shape[1], last + 1)), np.empty((samples, last))
    fit_backward(
        *(of.left, of.weight, of.inverse, of.mass, right, paths.reach, paths.head, float(price), coefficients, returns)
    )
    first = int((returns.mean(axis=0) - price * paths.reach).argmax()) + 1
    tables: dict[int, ExitTable] = {}
    open_exits = [first]
    while open_exits:  # most exits are reached by no sample
        exit = open_exits.pop()
        if exit < last and exit not in tables:
            knots = of.knots[exit - 1]
            tables[exit] = _table(knots, coefficients[exit - 1, : len(knots), : last + 1 - exit], exit)
            open_exits += set(tables[exit].actions) - {STOP}
    return OptimalStopping(first, tables, float(price))


def _table(knots: Floats, values: Floats, exit: int) -> ExitTable:
    """The table of an exit from the values ``[K, 1 + E + 1 - exit]`` of stopping and of going on at the knots."""
    bounds, choices = [], [int(values[0].argmax())]
    for place in range(len(knots) - 1):
        left, right = knots[place : place + 2]
        slopes = (values[place + 1] - values[place]) / (right - left)
        at = left
        while True:
            here = values[place] + slopes * (at - left)
            now = choices[-1]
            rivals = np.flatnonzero(slopes > slopes[now])
            crossings = at + np.maximum(here[now] - here[rivals], 0.0) / (slopes[rivals] - slopes[now])
            if not len(rivals) or crossings.min() >= right:
                break
            at = float(crossings.min())
            meeting = rivals[crossings == at]
            choices.append(int(meeting[slopes[meeting].argmax()]))
            bounds.append(at)
    kept = [place for place, bound in enumerate(bounds) if place + 1 == len(bounds) or bounds[place + 1] > bound]
    actions = [choices[0], *(choices[place + 1] for place in kept)]
    changes = [place for place in range(1, len(actions)) if actions[place] != actions[place - 1]]
    return ExitTable(
        tuple(float(bounds[kept[place - 1]]) for place in changes),
        tuple(STOP if one == 0 else exit + one for one in [actions[0], *(actions[place] for place in changes)]),
    )
