"""The exact front: every operating point of a trace, over every beta.

Decisions are piecewise constant in beta, so that a trace has finitely many operating points. Every cut is written so
that an interval of beta is ``(beta_low, beta_high]``: ``r >= beta`` holds up to and including r, ``r^k > beta`` up to
and including the float64 just below r^k.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from results.pareto import non_dominated
from study.costs.profile import Costs
from study.errors import UserError
from study.policies import Hierarchical, Overshoot, Policy, Predictive
from study.trace import Trace
from study.walks import walk_samples


def exact_front(
    trace: Trace,
    costs: Costs,
    policy: type[Predictive] | type[Hierarchical] = Predictive,
    objectives: Sequence[str] = ("accuracy", "flops"),
    *,
    start_layers: Sequence[int] | None = None,
    max_jump: int = 8,
    overshoot: Overshoot = "last_exit",
) -> pd.DataFrame:
    """All non-dominated operating points over every beta > 0 and every start layer.

    Args:
        trace: N samples.
        costs: of the network that made the trace.
        policy: ``Predictive`` or ``Hierarchical``.
        objectives: ``accuracy`` (maximised) and any of ``flops``, ``energy``, ``seconds`` (minimised).
        start_layers: those to sweep; all exits by default.
        max_jump, overshoot: of ``Predictive``.

    Returns:
        Columns start_layer, beta_low, beta_high and the objectives (accuracy as a share, costs as the mean per
        image). A point holds for every beta in (beta_low, beta_high]. Sorted by the first cost; of points that are
        equal in every objective the one with the lowest start layer and the highest beta is kept.
    """
    measures = [name for name in objectives if name != "accuracy"]
    if "accuracy" not in objectives or not measures:
        raise UserError(f"objectives are {list(objectives)}, but must be accuracy and at least one cost")
    if costs.exit_count != trace.exit_count:
        raise UserError(f"costs are for {costs.exit_count} exits, but the trace has {trace.exit_count}")
    if policy not in (Predictive, Hierarchical):
        raise UserError("the exact front is known for the policies Predictive and Hierarchical")
    layers = list(range(1, trace.exit_count + 1) if start_layers is None else start_layers)
    for layer in layers:
        Hierarchical(1.0, layer).first_exit(trace.exit_count)
    if not layers:
        raise UserError("the exact front needs at least one start layer")
    rule: Policy = Hierarchical(1.0)
    if policy is Predictive:
        rule = Predictive(1.0, max_jump=max_jump, overshoot=overshoot)
    table = _sweep(trace, costs, rule, layers, measures)
    table = table.drop_duplicates(subset=["accuracy", *measures], ignore_index=True)
    values = table[["accuracy", *measures]].to_numpy() * np.array([-1.0] + [1.0] * len(measures))
    front = table[non_dominated(values)].sort_values([measures[0], "accuracy"], ignore_index=True)
    return front[["start_layer", "beta_low", "beta_high", *objectives]]


def _sweep(
    trace: Trace, costs: Costs, policy: Policy, start_layers: Sequence[int], measures: Sequence[str]
) -> pd.DataFrame:
    """Every operating point of a policy, for some start layers, as beta falls from infinity to 0.

    Each row (a sample with a start layer) is walked at its own beta, then at the next value below which its path can
    change, until none is left; the changes of all rows, sorted by beta, are the operating points. O(E) operations on
    arrays for each of the at most (K_max + 1) E comparisons of a row.
    """
    table = trace.decision_table(policy.max_jump)
    count = len(trace.labels)
    first = np.repeat(np.asarray(start_layers, dtype=np.int64), count)
    sample = np.tile(np.arange(count), len(start_layers))
    row, beta = np.arange(len(sample)), np.full(len(sample), np.inf)
    values = np.zeros((len(sample), 1 + len(measures)))
    events = []
    while len(row):
        next_cut = np.full(len(row), -np.inf)
        walk = walk_samples(trace, table, policy, sample[row], first[row], beta=beta, next_cut=next_cut)
        right = walk.predictions == trace.labels[sample[row]]
        now = np.column_stack([right, *(costs.per_sample(walk, name) for name in measures)])
        change = now - values[row]
        matters = change.any(axis=1) | np.isinf(beta)
        events.append(np.column_stack([first[row], beta, change])[matters])
        values[row] = now
        left = next_cut > 0
        row, beta = row[left], next_cut[left]
    columns = ["start_layer", "beta_high", "accuracy", *measures]
    changes = pd.DataFrame(np.concatenate(events), columns=columns)
    return pd.concat(
        [_operating_points(group, ["accuracy", *measures], count) for _, group in changes.groupby("start_layer")],
        ignore_index=True,
    ).astype({"start_layer": np.int64})


def _operating_points(changes: pd.DataFrame, objectives: list[str], count: int) -> pd.DataFrame:
    """The operating points of one start layer from the changes that its samples make as beta falls."""
    points = changes.groupby("beta_high", as_index=False).sum().sort_values("beta_high", ascending=False)
    points["start_layer"] = changes["start_layer"].iloc[0]
    points[objectives] = points[objectives].cumsum() / count
    points["beta_low"] = points["beta_high"].shift(-1, fill_value=0.0)
    return _merge_equal_neighbours(points, objectives)


def _merge_equal_neighbours(points: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Join consecutive intervals of beta whose objectives are the same."""
    run = (points[columns] != points[columns].shift()).any(axis=1).cumsum()
    groups = points.groupby(run.to_numpy(), sort=False)
    merged = groups.first()
    merged["beta_low"] = groups["beta_low"].last()
    return merged.reset_index(drop=True)
