"""A sweep: every operating point of one network under one rule, as beta falls from infinity to 0.

Decisions are piecewise constant in beta, so that a trace has finitely many operating points. Each sample's way changes
at finitely many betas; the changes of all samples, sorted, add up to the operating points of a start layer. Every cut
is written so that an interval of beta is ``(beta_low, beta_high]``: ``r >= beta`` holds up to and including r,
``r^k > beta`` up to and including the float64 just below r^k.

Costs are added up as whole numbers of a unit, a power of two small enough that the largest sum has 62 bits: sums are
exact and the same in every order, so that points which are equal on paper are equal here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.arrays import Floats, Integers, concurrently, slices
from study.costs.costs import Costs
from study.errors import UserError
from study.policies.base import Policy
from study.policies.decision_table import table_for
from study.policies.replay import Walk, join_walks, walk_samples
from study.traces.trace import Trace

AT_ONCE = 2**24
"""Changes that are held at a time: some 60 bytes each with two costs, what is added up of them included."""
_BITS = 62


@dataclass(frozen=True, eq=False)
class Sweep:
    """One network and one rule.

    Args:
        trace: N samples.
        costs: of the network that made the trace.
        rule: whose beta, and start layer if it has one, are swept; its own are left aside.
        start_layers: those to sweep; None: all exits. ``Placed`` starts at its first exit.
        values: in place of costs that add up part by part, what each sample of a walk costs under a policy: ``[N, M]``.
            The sweep then walks in plain arrays, some ten to thirty times slower.

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
        if rule.compiled(exits) is None:
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


@dataclass(frozen=True, eq=False)
class Points:
    """All operating points of one start layer, from high beta to low."""

    start_layer: int
    beta_high: Floats
    """``[P]``; a point holds down to the next one's, the last one down to 0."""
    right: Integers
    """``[P]``, right answers."""
    sums: Integers
    """``[P, M]``, each cost over all samples, in units."""
    units: Floats
    """``[M]``."""

    @property
    def beta_low(self) -> Floats:
        """``[P]``."""
        return np.append(self.beta_high[1:], 0.0)


@dataclass(frozen=True, eq=False)
class Changes:
    """By how much right answers and costs change as beta falls, for one start layer."""

    start_layer: int
    right: int
    """Right answers at beta = infinity."""
    sums: Integers
    """``[M]``, costs there."""
    beta: Floats
    """``[n]``, in any order; a change holds at its beta and below."""
    change_of_right: NDArray[np.int8]
    change: Integers
    """``[n, M]``."""
    units: Floats

    def add_up(self) -> Points:
        """Sort and add up. O(n log n)."""
        from study.policies.kernels import add_up

        room, measures = len(self.beta) + 1, len(self.sums)
        high, right = np.empty(room), np.empty(room, dtype=np.int64)
        sums = np.empty((room, measures), dtype=np.int64)
        order = np.argsort(self.beta)
        found = add_up(self.beta, order, self.change_of_right, self.change, self.right, self.sums, high, right, sums)
        return Points(self.start_layer, high[:found], right[:found], sums[:found], self.units)


def changes(sweep: Sweep, measures: Sequence[str]) -> Iterator[list[Changes]]:
    """The changes of each start layer, so many layers at a time that they fit into the memory.

    Raises:
        UserError: the costs do not hold a measure.
    """
    if sweep.values is not None or sweep.rule.criterion == "patience":
        for layer in sweep.start_layers or ():
            yield [changes_by_walking(sweep, measures, layer)]
        return
    from study.policies.kernels import count_changes, list_changes

    trace, layers = sweep.trace, np.asarray(sweep.start_layers)
    arguments, units = kernel_arguments(sweep, measures)
    scores, exits = table_for(trace, sweep.rule).scores, trace.exit_count
    chunks = slices(len(scores))

    def count(chunk: slice) -> Integers:
        counts = np.zeros(exits + 2, dtype=np.int64)
        count_changes(scores[chunk], trace.right[chunk], *arguments, counts)
        return counts

    counts = np.array(concurrently(count, chunks))  # [chunks, E+2]
    totals = counts.sum(axis=0)
    for group in _groups(layers, totals):
        wanted = np.zeros(exits + 2, dtype=np.bool_)
        wanted[group] = True
        first = np.where(wanted, totals, 0).cumsum() - np.where(wanted, totals, 0)
        places = np.where(wanted, first + counts.cumsum(axis=0) - counts, -1)
        room = int(totals[group].sum())
        out = np.empty(room), np.empty(room, np.int8), np.empty((room, len(measures)), np.int64)

        def write(item: tuple[slice, Integers], out: tuple[Any, ...] = out) -> tuple[Integers, Integers]:
            chunk, place = item
            hits, sums = np.zeros(exits + 2, dtype=np.int64), np.zeros((exits + 2, len(measures)), dtype=np.int64)
            list_changes(scores[chunk], trace.right[chunk], *arguments, place.copy(), *out, hits, sums)
            return hits, sums

        parts = concurrently(write, zip(chunks, places, strict=True))
        hits, sums = (np.sum([part[i] for part in parts], axis=0) for i in (0, 1))
        own = {layer: slice(first[layer], first[layer] + totals[layer]) for layer in map(int, group)}
        beta, right, change = out
        yield [
            Changes(layer, int(hits[layer]), sums[layer], beta[part], right[part], change[part], units)
            for layer, part in own.items()
        ]


def changes_by_walking(sweep: Sweep, measures: Sequence[str], start_layer: int) -> Changes:
    """The changes of one start layer, walked sample by sample in plain arrays.

    Each sample is walked at its own beta, then at the next value below which its way can change, until none is left:
    O(E) operations on arrays for each of its at most (K_max + 1) E comparisons. The twin of the compiled way, and the
    only one for costs that depend on the whole walk.
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
    row, walk = np.concatenate(rows), join_walks(walks)  # all at once: a simulation is slow to start
    if sweep.values is not None:
        costs = np.asarray(sweep.values(walk, policy))
        units = _units(list(np.abs(costs).max(axis=0)), samples)
        values = _whole(costs, units)
    else:
        (_, _, _, heads, step, ends), units = kernel_arguments(sweep, measures)
        values = ends[walk.exit_index] + walk.tried @ heads[1:-1] + walk.engine_steps[:, None] * step
    right = (walk.predictions == trace.labels[row]).astype(np.int8)
    # What a sample was worth before: its row of the round before.
    order = np.argsort(row, kind="stable")
    before = np.empty(len(row), dtype=np.int64)
    before[order[1:]] = order[:-1]
    later = np.arange(samples, len(row))
    return Changes(
        start_layer,
        int(right[:samples].sum(dtype=np.int64)),
        values[:samples].sum(axis=0),
        np.concatenate(betas)[later],
        right[later] - right[before[later]],
        values[later] - values[before[later]],
        units,
    )


def kernel_arguments(sweep: Sweep, measures: Sequence[str]) -> tuple[tuple[Any, ...], Floats]:
    """``(next_exit, max_jump, beyond, heads, step, ends)`` of the compiled loops, and the units ``[M]`` of costs."""
    exits = sweep.trace.exit_count
    compiled = sweep.rule.compiled(exits)
    assert compiled is not None, "checked by the sweep"
    units = _units([_scale(sweep, measure) for measure in measures], len(sweep.trace.labels))
    heads, ends = np.zeros((2, exits + 2, len(measures)), dtype=np.int64)
    step = np.zeros(len(measures), dtype=np.int64)
    for column, measure in enumerate(measures):
        segments, of_heads, of_step = sweep.costs.parts(measure)
        ends[1:, column] = _whole(segments, units[column]).cumsum()
        heads[1:-1, column] = _whole(of_heads, units[column])
        if compiled.max_jump:
            step[column] = _whole(of_step, units[column])
    return (compiled.next_exit, compiled.max_jump, compiled.beyond, heads, step, ends), units


def _scale(sweep: Sweep, measure: str) -> float:
    """More than any walk can cost."""
    segments, heads, step = sweep.costs.parts(measure)
    return float(segments.sum() + heads.sum() + sweep.trace.exit_count * sweep.rule.max_jump * step)


def _units(largest: Sequence[float], samples: int) -> Floats:
    """``[M]``, powers of two of which a sum over all samples holds fewer than 2^62."""
    exponents = [np.ceil(np.log2(value * samples)) if value > 0 else _BITS for value in largest]
    return np.asarray(np.exp2(np.asarray(exponents) + 1 - _BITS))


def _whole(values: ArrayLike, units: ArrayLike) -> Integers:
    return np.asarray(np.rint(np.asarray(values) / np.asarray(units)), dtype=np.int64)


def _groups(layers: Integers, totals: Integers) -> Iterator[Integers]:
    """Start layers whose changes together are few enough to be held at a time; at least one."""
    group: list[int] = []
    for layer in layers:
        if group and totals[[*group, layer]].sum() > AT_ONCE:
            yield np.asarray(group)
            group = []
        group.append(int(layer))
    yield np.asarray(group)
