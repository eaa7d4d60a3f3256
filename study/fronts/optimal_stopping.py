"""Fit :class:`study.policies.optimal_stopping.OptimalStopping` to calibration images, in the form that suits them.

Two forms of the tables are at hand: regressions (:mod:`study.fronts.stopping_regression`), and thresholds of each head
(:mod:`study.fronts.head_thresholds`), which have fewer numbers to fit and jump over no exit that another sample tries.
The regressions are the default. Cross-validation on the calibration images replaces them by thresholds where these are
clearly cheaper at equal loss, as happens where there are few images.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from study.arrays import Floats
from study.costs.costs import Costs, Measure
from study.errors import UserError
from study.fronts.head_thresholds import head_thresholds
from study.fronts.matched_cost import bootstrapped_costs, resamples
from study.fronts.priced_paths import PRICES, PathShares
from study.fronts.stopping_regression import Basis, fit_by_regression
from study.policies.decision_table import table_for
from study.policies.optimal_stopping import OptimalStopping, decision_flops, ladder
from study.policies.replay import walk_samples
from study.traces.trace import Trace

Form = Literal["regression", "head_thresholds"]
_FOLDS, _REPEATS, _RESAMPLES = 4, 2, 100
LEAST_IMAGES = 2 * _FOLDS
"""Calibration images that a fit needs."""
_LOSSES = tuple(float(loss) for loss in np.linspace(0.004, 0.02, 9))
"""Losses of accuracy at which the forms are compared: many, because each alone rests on few images."""


def fit_optimal_stopping(
    trace: Trace,
    costs: Costs,
    prices: Sequence[float] = PRICES,
    *,
    measure: Measure = "flops",
    form: Form | None = None,
) -> list[OptimalStopping]:
    """One policy for each price: accuracy is worth 1, and a run of the classic network costs the price.

    O(N E^2) for each price. The memory is a few arrays of N x E numbers for each thread.

    Args:
        trace: N calibration images.
        costs: of the network that made the trace.
        prices: larger prices stop earlier.
        measure: the cost that has the price.
        form: of the tables; None: chosen by cross-validation on the calibration images.

    Raises:
        UserError: the costs do not hold the measure, a price is negative or not finite, or there are fewer than 8
            images.
    """
    paths = PathShares.of(costs, measure, decision_flops(trace.logits.shape[2]))
    if len(trace.labels) < LEAST_IMAGES:
        raise UserError(f"optimal_stopping: {len(trace.labels)} calibration images are too few to fit a rule")
    scores = table_for(trace, OptimalStopping(1, {}, 0.0)).stop
    form = chosen_form(trace, costs, measure) if form is None else form
    return _fitted(form, scores, trace.right, paths, prices)


def chosen_form(trace: Trace, costs: Costs, measure: Measure = "flops") -> Form:
    """The form of the tables, by the costs at equal loss on images that did not fit them.

    Each fourth of the calibration images, in two fixed random orders, is replayed by tables that were fitted to the
    others. The forms are compared by the mean logarithm of their costs at losses from 0.4 to 2 points. The thresholds
    win where they are cheaper by more than one standard error, from 100 bootstrap resamples of the images: a smaller
    difference is noise.
    """
    order = np.random.default_rng(0)
    folds = [order.permutation(len(trace.labels)) % _FOLDS for _ in range(_REPEATS)]
    samples = len(trace.labels)
    drawn = np.concatenate([np.ones((1, samples)), resamples(samples, _RESAMPLES)])
    logarithms: dict[Form, Floats] = {}
    for form in get_args(Form):
        right, cost = _out_of_fold(trace, costs, measure, form, folds)
        found = bootstrapped_costs(cost.T, trace.right[:, -1] - right.T, _LOSSES, drawn)
        logarithms[form] = np.log(found).mean(axis=1)
    gain = logarithms["regression"] - logarithms["head_thresholds"]
    return "head_thresholds" if gain[0] > gain[1:].std() else "regression"


def _out_of_fold(
    trace: Trace, costs: Costs, measure: Measure, form: Form, folds: Sequence[NDArray[np.int64]]
) -> tuple[Floats, Floats]:
    """``([N, P], [N, P])``: right answers and costs of each sample under tables that other samples fitted, by price."""
    paths = PathShares.of(costs, measure, decision_flops(trace.logits.shape[2]))
    table, prices = table_for(trace, OptimalStopping(1, {}, 0.0)), PRICES[::3]
    right, cost = np.zeros((2, len(trace.labels), len(prices)))
    for of_all, fold in product(folds, range(_FOLDS)):
        own, others = np.flatnonzero(of_all == fold), of_all != fold
        for place, policy in enumerate(_fitted(form, table.stop[others], trace.right[others], paths, prices)):
            walk = walk_samples(trace, table, policy, own, np.full(len(own), policy.first))
            right[own, place] += trace.right[own, walk.exit_index - 1] / len(folds)
            cost[own, place] += paths.of_walk(walk) / len(folds)
    return right, cost


def _fitted(
    form: Form, scores: Floats, right: NDArray[np.int8], paths: PathShares, prices: Sequence[float]
) -> list[OptimalStopping]:
    if form == "regression":
        return fit_by_regression(scores, right, paths, prices, Basis())
    found = head_thresholds(scores, right, paths, prices)
    return [ladder(thresholds, float(price)) for thresholds, price in zip(found, prices, strict=True)]
