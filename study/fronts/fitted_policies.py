"""Policies whose settings are fitted to calibration images, by name: :data:`FITTERS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from study.costs.costs import Costs, Measure
from study.fronts.head_thresholds import fit_head_thresholds
from study.fronts.optimal_stopping import Form, chosen_form, fit_optimal_stopping
from study.policies.base import Policy
from study.policies.criteria import Criterion
from study.policies.optimal_stopping import OptimalStopping
from study.policies.policies import HeadThresholds
from study.traces.trace import Trace

Fit: TypeAlias = Callable[[Sequence[float]], Sequence[Policy]]
"""Prices -> policies. What does not depend on the prices is computed before."""
Fitter: TypeAlias = Callable[[Trace, Costs, Criterion, Measure], Fit]


def _head_thresholds(trace: Trace, costs: Costs, criterion: Criterion, measure: Measure) -> Fit:
    return lambda prices: fit_head_thresholds(trace, costs, criterion, prices, measure=measure)


def _optimal_stopping(trace: Trace, costs: Costs, criterion: Criterion, measure: Measure) -> Fit:
    form: Form = chosen_form(trace, costs, measure)
    return lambda prices: fit_optimal_stopping(trace, costs, prices, measure=measure, form=form)


FITTERS: Mapping[str, Fitter] = {HeadThresholds.name: _head_thresholds, OptimalStopping.name: _optimal_stopping}
"""Name of a policy -> what fits it to calibration images."""
