"""Traces, policies and costs of tests.

Hypothesis strategies, rich in ties, equal and zero thresholds, and small sizes; and larger ones without ties.
"""

from dataclasses import replace
from math import inf

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from study import Classic, Costs, Hierarchical, Placed, Predictive, Static, Trace
from study.policies.criteria import CRITERIA
from study.policies.decision_table import table_for
from study.policies.optimal_stopping import STOP, ExitTable, OptimalStopping
from support.plain_twins import all_confidences, all_ratios

quarters = st.integers(-12, 12).map(lambda quarter: quarter / 4)  # sums are exact, and ties are frequent
any_logits = st.one_of(quarters, st.floats(-50, 50, width=32, allow_subnormal=False))
thetas = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.0, 3.0]), st.floats(2.0**-10, 20.0, width=32))


@st.composite
def traces(draw, *, max_samples=6, max_exits=6, max_classes=4, samples=None):
    """A trace of N samples, E exits and C classes, each from 1; ``samples`` fixes N."""
    samples = draw(st.integers(1, max_samples)) if samples is None else samples
    exits = draw(st.integers(1, max_exits))
    classes = draw(st.integers(1, max_classes))
    return Trace(
        logits=draw(hnp.arrays(np.float32, (samples, exits + 1, classes), elements=any_logits)),
        labels=draw(hnp.arrays(np.int64, samples, elements=st.integers(0, classes - 1))),
        thresholds=draw(hnp.arrays(np.float64, exits, elements=thetas)),
    )


@st.composite
def betas(draw, trace, *, max_jump=8):
    """A beta > 0: one of the trace's own ratios, a float64 neighbour of one, or any."""
    longest = draw(st.sampled_from([0, 1, max_jump]))  # the engine's ratios are many, and large where k is
    edges = [r for r in all_ratios(trace, longest) if 1e-3 < r < inf] or [1.0]
    edge = draw(st.sampled_from(edges))
    near = st.sampled_from([edge, float(np.nextafter(edge, 0)), float(np.nextafter(edge, inf))])
    return draw(st.one_of(near, near, st.floats(1e-3, 1e3)))


@st.composite
def betas_of_criterion(draw, trace, criterion):
    """A beta for a criterion, at its ties where scores are exact; else about a score, but never within 1e-9 of one."""
    if criterion == "logit":
        return draw(st.one_of(betas(trace), st.just(inf)))
    if criterion == "oracle":
        return draw(st.sampled_from([1e-3, 1.0, inf]))
    if criterion == "patience":
        whole = float(draw(st.integers(1, trace.exit_count + 1)))
        return draw(st.sampled_from([whole, whole - 0.5, float(np.nextafter(whole, 0)), float(np.nextafter(whole, 9))]))
    scores = np.asarray(all_confidences(trace, criterion))
    near = st.sampled_from([float(score) + side for score in scores for side in (-1e-6, 1e-6) if score > 1e-3] or [1.0])
    beta = draw(st.one_of(near, st.floats(1e-3, 1.1)))
    while np.abs(scores - beta).min() <= 1e-9:
        beta += 1e-7
    return beta


@st.composite
def policies(
    draw, trace, *, kinds=("classic", "static", "hierarchical", "placed", "predictive"), criteria=("logit",), own=False
):
    """A policy of any kind that fits the trace; ``own``: at times with a beta for each exit."""
    exit = st.integers(1, trace.exit_count)
    kind = draw(st.sampled_from(kinds))
    if kind == "classic":
        return Classic()
    if kind == "static":
        return Static(draw(exit))
    criterion = "logit" if kind == "predictive" else draw(st.sampled_from(criteria))
    some = betas(trace) if criteria == ("logit",) else betas_of_criterion(trace, criterion)
    beta = draw(some)
    if own and draw(st.booleans()):
        beta = tuple(draw(some) for _ in range(trace.exit_count))
    if kind == "hierarchical":
        return Hierarchical(beta, draw(exit), criterion)
    if kind == "placed":
        return Placed(beta, sorted(draw(st.sets(exit, min_size=1))), criterion)
    overshoot = draw(st.sampled_from(["last_exit", "classifier"]))
    return Predictive(beta, draw(exit), max_jump=draw(st.integers(1, 8)), overshoot=overshoot)


@st.composite
def stopping_rules(draw, trace):
    """Any tables of optimal stopping, with bounds at scores of the trace, next to them, and elsewhere."""
    exits = trace.exit_count
    scores = np.unique(table_for(trace, OptimalStopping(1, {}, 0.0)).stop).tolist()
    edge = st.sampled_from(scores)
    bound = st.one_of(edge, edge.map(lambda score: float(np.nextafter(score, inf))), st.floats(0.0, 9.0))
    tables = {}
    for exit in range(1, exits + 1):
        bounds = sorted(draw(st.sets(bound, max_size=3)))
        action = st.sampled_from([STOP, *range(exit + 1, exits + 2)])
        tables[exit] = ExitTable(tuple(bounds), tuple(draw(action) for _ in range(len(bounds) + 1)))
    return OptimalStopping(draw(st.integers(1, exits + 1)), tables, draw(st.floats(0.0, 3.0)))


@st.composite
def whole_costs(draw, exits):
    """Costs in whole numbers, whose sums are exact; zeros and equal ones are frequent."""
    price = st.integers(0, 9).map(float)
    segments, heads = hnp.arrays(np.float64, exits + 1, elements=price), hnp.arrays(np.float64, exits, elements=price)
    return Costs(
        segment_flops=draw(segments),
        head_flops=draw(heads),
        engine_step_flops=draw(price),
        segment_energy=draw(segments),
        head_energy=draw(heads),
        engine_step_energy=draw(price),
        energy_source="modelled:drawn",
    )


@st.composite
def tied_policies(draw, trace, criteria=CRITERIA):
    """Hierarchical or Placed, at betas that are scores as the trace computes them, or float64 neighbours of those."""
    policy = draw(policies(trace, kinds=("hierarchical", "placed"), criteria=criteria))
    edges = np.unique(table_for(trace, policy).stop)
    edges = [float(edge) for edge in edges if edge > 1e-3] or [1.0]
    near = st.sampled_from(edges).flatmap(
        lambda edge: st.sampled_from([edge, float(np.nextafter(edge, 0)), float(np.nextafter(edge, inf))])
    )
    beta = tuple(draw(near) for _ in range(trace.exit_count)) if draw(st.booleans()) else draw(near)
    return replace(policy, beta=beta)


def rules(trace, criteria=CRITERIA):
    """A policy whose beta is to be swept."""
    kinds = ("hierarchical", "placed", "predictive")
    return policies(trace, kinds=kinds, criteria=criteria).map(lambda policy: replace(policy, beta=1.0))


# --- larger ones -----------------------------------------------------------------------------------------------------


def learned_trace(samples=200, exits=6, classes=5) -> Trace:
    """Deeper exits know the label better; no ties."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, samples)
    depth = np.arange(1, exits + 2)[:, None]
    logits = random.normal(size=(samples, exits + 1, classes)) + depth * np.eye(classes)[labels][:, None] / 2
    return Trace(logits=logits.astype(np.float32), labels=labels, thresholds=random.uniform(0.5, 2.0, exits))


def rounded_costs(exits=6) -> Costs:
    """FLOPs and joules whose sums are rounded."""
    random = np.random.default_rng(1)
    return Costs(
        segment_flops=random.uniform(1e6, 1e8, exits + 1),
        head_flops=random.uniform(1e5, 1e6, exits),
        engine_step_flops=61 / 3,
        segment_energy=random.uniform(1e-6, 1e-5, exits + 1),
        head_energy=random.uniform(1e-8, 1e-7, exits),
        engine_step_energy=1e-10 / 3,
        energy_source="modelled:drawn",
    )
