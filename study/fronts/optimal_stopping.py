"""Fit :class:`study.policies.optimal_stopping.OptimalStopping` to calibration images, in the form that suits them.

Three forms of the tables are at hand: regressions with six knots and with eight knots
(:mod:`study.fronts.stopping_regression`), and thresholds of each head (:mod:`study.fronts.head_thresholds`), which have
the fewest numbers to fit and jump over no exit that another sample tries. Cross-validation on the calibration images
chooses the form: where there are few images, the simplest form wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from study.arrays import Floats
from study.costs.costs import Costs, Measure
from study.fronts.head_thresholds import head_thresholds
from study.fronts.matched_cost import matched_costs
from study.fronts.priced_paths import PRICES, PathShares
from study.fronts.stopping_regression import Basis, fit_by_regression
from study.policies.decision_table import table_for
from study.policies.optimal_stopping import OptimalStopping, decision_flops, ladder
from study.policies.replay import walk_samples
from study.traces.trace import Trace

Form = Literal["six_knots", "eight_knots", "head_thresholds"]
_BASES: dict[str, Basis] = {"six_knots": Basis(6, 3.0), "eight_knots": Basis(8, 1.0)}
_FOLDS = 4
_LOSSES = (0.005, 0.01, 0.02)
"""Losses of accuracy at which the forms are compared."""


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
        UserError: the costs do not hold the measure, or a price is negative or not finite.
    """
    paths = PathShares.of(costs, measure, decision_flops(trace.logits.shape[2]))
    scores = table_for(trace, OptimalStopping(1, {}, 0.0)).stop
    form = chosen_form(trace, costs, measure) if form is None else form
    return _fitted(form, scores, trace.right, paths, prices)


def chosen_form(trace: Trace, costs: Costs, measure: Measure = "flops") -> Form:
    """The form of the tables with the least cost at equal loss on images that did not fit them.

    Every fourth of the calibration images, in a fixed random order, is replayed by tables that were fitted to the
    others. The geometric mean of the costs at losses of 0.5, 1 and 2 points decides.
    """
    paths = PathShares.of(costs, measure, decision_flops(trace.logits.shape[2]))
    table = table_for(trace, OptimalStopping(1, {}, 0.0))
    samples, prices = len(trace.labels), PRICES[::5]
    folds = np.random.default_rng(0).permutation(samples) % _FOLDS
    best: tuple[float, Form] = (np.inf, "head_thresholds")
    for form in get_args(Form):
        right, cost = np.zeros(len(prices)), np.zeros(len(prices))
        for fold in range(_FOLDS):
            own, others = np.flatnonzero(folds == fold), folds != fold
            fitted = _fitted(form, table.stop[others], trace.right[others], paths, prices)
            for place, policy in enumerate(fitted):
                walk = walk_samples(trace, table, policy, own, np.full(len(own), policy.first))
                right[place] += trace.right[own, walk.exit_index - 1].sum() / samples
                cost[place] += paths.of_walk(walk).sum() / samples
        mean = float(np.log(matched_costs(cost, trace.classic_accuracy - right, _LOSSES)).mean())
        best = min(best, (mean, form))
    return best[1]


def _fitted(
    form: Form, scores: Floats, right: NDArray[np.int8], paths: PathShares, prices: Sequence[float]
) -> list[OptimalStopping]:
    if form != "head_thresholds":
        return fit_by_regression(scores, right, paths, prices, _BASES[form])
    found = head_thresholds(scores, right, paths, prices)
    return [ladder(thresholds, float(price)) for thresholds, price in zip(found, prices, strict=True)]
