"""Hypothesis strategies: traces, policies and costs, rich in ties, equal and zero thresholds, and small sizes."""

from math import inf

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from plain_twins import all_ratios

from study import Classic, Costs, Hierarchical, Placed, Predictive, Static, Trace

quarters = st.integers(-12, 12).map(lambda quarter: quarter / 4)  # sums are exact, and ties are frequent
any_logits = st.one_of(quarters, st.floats(-50, 50, width=32, allow_subnormal=False))
thetas = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.0, 3.0]), st.floats(2.0**-10, 20.0, width=32))


@st.composite
def traces(draw, *, max_samples=6, max_exits=6, max_classes=4):
    """A trace of N samples, E exits and C classes, each from 1."""
    samples = draw(st.integers(1, max_samples))
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
    edges = [r for r in all_ratios(trace, max_jump) if 1e-3 < r < inf] or [1.0]
    edge = draw(st.sampled_from(edges))
    near = st.sampled_from([edge, float(np.nextafter(edge, 0)), float(np.nextafter(edge, inf))])
    return draw(st.one_of(near, st.floats(1e-3, 1e3)))


@st.composite
def policies(draw, trace, *, kinds=("classic", "static", "hierarchical", "placed", "predictive")):
    """A policy of any kind that fits the trace."""
    exit = st.integers(1, trace.exit_count)
    kind = draw(st.sampled_from(kinds))
    if kind == "classic":
        return Classic()
    if kind == "static":
        return Static(draw(exit))
    beta = draw(betas(trace))
    if kind == "hierarchical":
        return Hierarchical(beta, draw(exit))
    if kind == "placed":
        return Placed(beta, sorted(draw(st.sets(exit, min_size=1))))
    overshoot = draw(st.sampled_from(["last_exit", "classifier"]))
    return Predictive(beta, draw(exit), max_jump=draw(st.integers(1, 8)), overshoot=overshoot)


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
