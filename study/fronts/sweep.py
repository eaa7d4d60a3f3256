"""A sweep: every operating point of one network under one rule, as beta falls from infinity to 0.

Decisions are piecewise constant in beta, so a trace has finitely many operating points. The walk of each sample changes
at finitely many betas. The changes of all samples, sorted by beta and added up, give the operating points of a start
layer. An interval of beta is ``(beta_low, beta_high]``: ``r >= beta`` holds up to and including r, and ``r^k > beta``
holds up to and including the float64 just below r^k.

Costs are added up as whole numbers of a unit. The unit is a power of two, small enough that the largest sum has 62
bits. Sums are therefore exact and do not depend on the order of samples: points that are equal on paper are equal here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike

from study.arrays import Floats, Integers, concurrently, slices
from study.costs.costs import Costs
from study.errors import UserError
from study.policies.base import CompiledPolicy, Policy
from study.policies.decision_table import table_for
from study.policies.replay import Walk, join_walks, walk_samples
from study.traces.trace import Trace

AT_ONCE = 2**24
"""Changes in memory at a time. A change takes some 60 bytes with two costs, the added-up points included."""
_BITS = 62


class PartCosts(NamedTuple):
    """M costs of the parts of a network, in units."""

    heads: Integers
    """``[E+2, M]``; 0 at the unused place and at the classifier."""
    engine_step: Integers
    """``[M]``."""
    ends: Integers
    """``[E+2, M]``, all segments up to an exit."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """One network and one rule.

    Args:
        trace: N samples.
        costs: of the network that made the trace.
        rule: the policy whose beta is swept, and whose start layer is swept if the policy has one. The values of beta
            and start layer in ``rule`` do not matter.
        start_layers: the start layers to sweep; None: all exits. A policy without this setting starts at its first
            exit.
        values: the costs of each sample of a walk under a policy, ``[N, M]``, in place of costs that add up part by
            part. The sweep then walks in plain arrays, some ten to thirty times slower.

    Raises:
        UserError: trace, costs and rule do not belong together, or the rule has nothing to sweep.
    """

    trace: Trace
    costs: Costs
    rule: Policy
    start_layers: Sequence[int] | None = None
    values: Callable[[Walk, Policy], Floats] | None = None

    def __post_init__(self) -> None:
        exits = self.trace.exit_count
        if self.costs.exit_count != exits:
            raise UserError(f"costs are for {self.costs.exit_count} exits, but the trace has {exits}")
        if "beta" not in self.rule.settings():
            raise UserError(f"an exact front needs a policy with a beta, and {self.rule} has none")
        rule = self.rule.at(beta=1.0, start_layer=1)
        if not rule.has_compiled_form():
            raise UserError(f"an exact front needs a policy with a compiled form, and {self.rule} has none")
        if "start_layer" in rule.settings():
            layers = sorted(set(range(1, exits + 1) if self.start_layers is None else self.start_layers))
        else:
            layers = [rule.first_exit(exits)]
        if not layers:
            raise UserError("the exact front needs at least one start layer")
        object.__setattr__(self, "rule", rule)
        object.__setattr__(self, "start_layers", layers)
        for layer in layers:
            self.policy(1.0, layer).first_exit(exits)

    def policy(self, beta: float, start_layer: int) -> Policy:
        """The rule at a beta and a start layer."""
        return self.rule.at(beta=beta, start_layer=start_layer)

    @property
    def compiled(self) -> CompiledPolicy:
        """The rule as numbers."""
        return cast(CompiledPolicy, self.rule.compiled(self.trace.exit_count))

    def part_costs(self, measures: Sequence[str]) -> tuple[PartCosts, Floats]:
        """The costs in whole units, and the units ``[M]``.

        Raises:
            UserError: the costs do not hold a measure.
        """
        exits = self.trace.exit_count
        parts = [self.costs.parts(measure) for measure in measures]
        most_steps = exits * self.rule.max_jump
        # More than any walk can cost.
        most = [float(segments.sum() + heads.sum() + most_steps * step) for segments, heads, step in parts]
        units = _units(most, len(self.trace.labels))
        heads, ends = np.zeros((2, exits + 2, len(measures)), dtype=np.int64)
        step = np.zeros(len(measures), dtype=np.int64)
        for column, (of_segments, of_heads, of_step) in enumerate(parts):
            ends[1:, column] = _whole(of_segments, units[column]).cumsum()
            heads[1:-1, column] = _whole(of_heads, units[column])
            if self.rule.max_jump:
                step[column] = _whole(of_step, units[column])
        return PartCosts(heads, step, ends), units


@dataclass(frozen=True, eq=False)
class Points:
    """All operating points of one start layer, from high beta to low beta."""

    start_layer: int
    beta_high: Floats
    """``[P]``; a point holds down to the next point's beta_high, the last point down to 0."""
    totals: Integers
    """``[P, M+1]``: each cost over all samples, in units, and last the right answers."""
    units: Floats
    """``[M]``."""

    @property
    def right(self) -> Integers:
        """``[P]``, right answers."""
        return self.totals[:, -1]

    @property
    def sums(self) -> Integers:
        """``[P, M]``, each cost over all samples, in units."""
        return self.totals[:, :-1]

    @property
    def beta_low(self) -> Floats:
        """``[P]``."""
        return np.append(self.beta_high[1:], 0.0)


@dataclass(frozen=True, eq=False)
class Changes:
    """How costs (in units) and right answers of one start layer change as beta falls from infinity."""

    start_layer: int
    at_infinity: Integers
    """``[M+1]``, over all samples at beta = infinity; the right answers last."""
    beta: Floats
    """``[n]``, in any order; a change holds at its beta and below."""
    totals: Integers
    """``[n, M+1]``, what is added."""
    units: Floats
    """``[M]``."""

    def add_up(self) -> Points:
        """Sort the changes and add them up. O(n log n)."""
        from study.fronts.kernels import add_up

        room, columns = len(self.beta) + 1, len(self.at_infinity)
        highs, points = np.empty(room), np.empty((room, columns), dtype=np.int64)
        found = add_up(self.beta, self.totals, np.argsort(self.beta), self.at_infinity, highs, points)
        return Points(self.start_layer, highs[:found], points[:found], self.units)


def changes(sweep: Sweep, measures: Sequence[str]) -> Iterator[list[Changes]]:
    """The changes of each start layer, in groups of start layers whose changes fit into memory together.

    Raises:
        UserError: the costs do not hold a measure.
    """
    layers = np.asarray(sweep.start_layers)
    if sweep.values is not None or sweep.rule.criterion == "patience":
        list_them = changes_by_walking if sweep.values is not None else _changes_of_patience
        for layer in map(int, layers):
            yield [list_them(sweep, measures, layer)]
        return
    from study.fronts.kernels import count_changes, list_changes

    trace, policy = sweep.trace, sweep.compiled
    costs, units = sweep.part_costs(measures)
    scores, exits = table_for(trace, sweep.rule).scores, trace.exit_count
    chunks = slices(len(scores))

    def count(chunk: slice) -> Integers:
        counts = np.zeros(exits + 2, dtype=np.int64)
        count_changes(scores[chunk], trace.right[chunk], policy, costs, counts)
        return counts

    counts = np.array(concurrently(count, chunks))  # [chunks, E+2]
    totals = counts.sum(axis=0)
    for group in _groups(layers, totals):
        # Each start layer of the group has a part of the list, and each chunk of samples has a part of that part.
        wanted = np.zeros(exits + 2, dtype=np.bool_)
        wanted[group] = True
        first = np.where(wanted, totals, 0).cumsum() - np.where(wanted, totals, 0)
        places = np.where(wanted, first + counts.cumsum(axis=0) - counts, -1)
        betas = np.empty(totals[group].sum())
        found = np.empty((len(betas), len(measures) + 1), dtype=np.int64)

        def write(item: tuple[slice, Integers], betas: Floats = betas, found: Integers = found) -> Integers:
            chunk, places = item
            sums = np.zeros((exits + 2, found.shape[1]), dtype=np.int64)
            list_changes(scores[chunk], trace.right[chunk], policy, costs, places.copy(), betas, found, sums)
            return sums

        sums = np.sum(concurrently(write, zip(chunks, places, strict=True)), axis=0)
        parts = {layer: slice(first[layer], first[layer] + totals[layer]) for layer in map(int, group)}
        yield [Changes(layer, sums[layer], betas[part], found[part], units) for layer, part in parts.items()]


def _changes_of_patience(sweep: Sweep, measures: Sequence[str], start_layer: int) -> Changes:
    """The changes of one start layer under ``patience``, whose scores are whole numbers: one change for each number.

    A run of equal answers grows by one at a time. So a sample that needs t equal answers stops at the first exit whose
    score is t. O(N T) for T exits tried.
    """
    trace, policy = sweep.trace, sweep.policy(1.0, start_layer)
    tried = np.asarray(policy.path(trace.exit_count))
    runs = table_for(trace, policy).stop[:, tried - 1].astype(np.int64)
    everyone, count = np.arange(len(runs)), len(tried)
    stops = np.full((count + 1, len(runs)), count)  # by the score needed: the place in ``tried`` of the stop
    for place in reversed(range(count)):
        stops[runs[:, place], everyone] = place
    parts, units = sweep.part_costs(measures)
    exits = np.append(tried, trace.exit_count + 1)
    costs = parts.ends[exits] + np.append(parts.heads[tried], np.zeros_like(parts.heads[:1]), axis=0).cumsum(axis=0)
    totals = np.empty((count + 1, len(measures) + 1), dtype=np.int64)  # row t - 1: t answers are needed
    for needed in range(1, count + 2):
        at = stops[needed] if needed <= count else np.full(len(runs), count)
        totals[needed - 1, :-1] = np.bincount(at, minlength=count + 1) @ costs
        totals[needed - 1, -1] = trace.right[everyone, exits[at] - 1].sum()
    return Changes(start_layer, totals[-1], np.arange(1.0, count + 1), totals[:-1] - totals[1:], units)


def changes_by_walking(sweep: Sweep, measures: Sequence[str], start_layer: int) -> Changes:
    """The changes of one start layer, walked sample by sample in plain arrays.

    Each sample is walked at beta = infinity, then at the next lower beta at which its walk can change, and so on until
    no such beta is left. The number of walks of a sample is at most its number of comparisons, (K_max + 1) E; each walk
    takes O(E) operations on arrays. The tests compare the result with the compiled sweep. Costs that depend on the
    whole walk have no other sweep.
    """
    trace, policy = sweep.trace, sweep.policy(1.0, start_layer)
    table, exits, samples = table_for(trace, policy).up_to(policy.max_jump), trace.exit_count, len(trace.labels)
    row, beta = np.arange(samples), np.full(samples, np.inf)
    rows, betas, walks = [], [], []
    while len(row):
        next_cut = np.full(len(row), -np.inf)
        first = np.full(len(row), policy.first_exit(exits))
        walks.append(walk_samples(trace, table, policy, row, first, beta=beta, next_cut=next_cut))
        rows.append(row)
        betas.append(beta)
        left = next_cut > 0
        row, beta = row[left], next_cut[left]
    row, walk = np.concatenate(rows), join_walks(walks)  # all walks at once, because a simulation is slow to start
    if sweep.values is not None:
        values = np.asarray(sweep.values(walk, policy))
        units = _units(list(np.abs(values).max(axis=0)), samples)
        costs = _whole(values, units)
    else:
        parts, units = sweep.part_costs(measures)
        costs = parts.ends[walk.exit_index] + walk.tried @ parts.heads[1:-1]
        costs += walk.engine_steps[:, None] * parts.engine_step
    found = np.column_stack([costs, walk.predictions == trace.labels[row]])
    # The row of the same sample in the round before.
    order = np.argsort(row, kind="stable")
    before = np.empty(len(row), dtype=np.int64)
    before[order[1:]] = order[:-1]
    later = np.arange(samples, len(row))
    change = found[later] - found[before[later]]
    return Changes(start_layer, found[:samples].sum(axis=0), np.concatenate(betas)[later], change, units)


def _units(largest: Sequence[float], samples: int) -> Floats:
    """``[M]``, powers of two. A sum of N values up to the largest one is below 2^62 units."""
    exponents = [np.ceil(np.log2(value * samples)) if value > 0 else _BITS for value in largest]
    return np.asarray(np.exp2(np.asarray(exponents) + 1 - _BITS))


def _whole(values: ArrayLike, units: ArrayLike) -> Integers:
    return np.asarray(np.rint(np.asarray(values) / np.asarray(units)), dtype=np.int64)


def _groups(layers: Integers, totals: Integers) -> Iterator[Integers]:
    """Start layers whose changes together do not exceed :data:`AT_ONCE`; at least one start layer a group."""
    group: list[int] = []
    for layer in layers:
        if group and totals[[*group, layer]].sum() > AT_ONCE:
            yield np.asarray(group)
            group = []
        group.append(int(layer))
    yield np.asarray(group)
