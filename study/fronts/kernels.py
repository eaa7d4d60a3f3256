"""The loops of sweeps, grids and exact fronts, compiled.

Private to `study`: the functions take plain arrays and named tuples of arrays, check nothing and raise nothing. Each
function has a plain twin on arrays, and the tests compare the two. All functions release the interpreter's lock, so
that threads can share the samples.

Exits are numbered from 1 to E, and E + 1 is the classifier. Arrays over exits have an unused place 0. M is the number
of costs. The arguments of most functions are:

- ``scores [N, E, K+1]``: a decision table; place 0 of the last axis is the exit criterion, place k the engine's r^k.
- ``right [N, E+1]``: whether the answer of an exit, or of the classifier, is right.
- ``policy``: a :class:`study.policies.base.CompiledPolicy`; its ``first`` and ``beta`` are not used.
- ``costs``: a :class:`study.fronts.sweep.PartCosts`.

*Totals*, of one sample or of many, have M + 1 columns: the costs in units, and last the right answers.

**Pieces.** For one sample, the outcome from exit l on is a piecewise constant function of beta: a list of pieces from
high beta to low beta. Each piece is valid down to the beginning of the next piece. At exit l a sample with beta <= r_l
stops. Above r_l, the engine's jump is k for beta in (c_{k-1}, c_k], where c_0 = 0, c_K = infinity, and c_k is the
float64 just below max_{i<=k} r^i. In this interval the pieces of exit l + k hold, with the costs of the head of exit l
and of k engine steps added. One pass from exit E back to exit 1 gives the functions of all start layers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from study.arrays import Floats, Integers
from study.policies.kernels import compiled


class _Pieces(NamedTuple):
    """The pieces of one sample from every exit on; P is the room for pieces."""

    number: Integers
    """``[E+2]``, how many pieces each exit has."""
    high: Floats
    """``[E+2, P]``, the largest beta of each piece."""
    totals: Integers
    """``[E+2, P, M+1]``."""


@compiled
def _room_for_pieces(scores, measures):
    _, exits, width = scores.shape
    room = exits * width + 2
    return _Pieces(
        np.zeros(exits + 2, dtype=np.int64),
        np.empty((exits + 2, room)),
        np.empty((exits + 2, room, measures + 1), dtype=np.int64),
    )


@compiled
def _find_pieces(ratios, right, policy, costs, pieces):
    """Fill ``pieces`` for one sample with ``ratios [E, K+1]`` and ``right [E+1]``."""
    count, high, value = pieces.number, pieces.high, pieces.totals
    heads, step, ends = costs.heads, costs.engine_step, costs.ends
    next_exit, max_jump, beyond = policy.next_exit, policy.max_jump, policy.beyond
    exits, measures = len(ratios), len(step)
    count[exits + 1] = 1
    high[exits + 1, 0] = np.inf
    value[exits + 1, 0, measures] = right[exits]
    for m in range(measures):
        value[exits + 1, 0, m] = ends[exits + 1, m]
    cuts = np.empty(max_jump + 1)
    cuts[0] = 0.0
    for exit in range(exits, 0, -1):
        stop = ratios[exit - 1, 0]
        regions = 1 if max_jump == 0 or exit == exits else max_jump
        for k in range(1, regions):
            cuts[k] = max(cuts[k - 1], np.nextafter(ratios[exit - 1, k], -np.inf))
        cuts[regions] = np.inf
        found = 0
        for k in range(regions, 0, -1):
            low, top = max(cuts[k - 1], stop), cuts[k]
            if top <= stop:
                break
            if top <= low:
                continue
            target, steps = next_exit[exit], 0
            if max_jump and exit < exits:
                target, steps = exit + k, k
                if target > exits:
                    target = beyond
            piece = 0
            while piece + 1 < count[target] and high[target, piece + 1] >= top:
                piece += 1
            while piece < count[target] and high[target, piece] > low:
                high[exit, found] = min(high[target, piece], top)
                value[exit, found, measures] = value[target, piece, measures]
                for m in range(measures):
                    value[exit, found, m] = value[target, piece, m] + heads[exit, m] + steps * step[m]
                found += _is_new(value[exit], found)
                piece += 1
        if stop > 0:
            high[exit, found] = stop
            value[exit, found, measures] = right[exit - 1]
            for m in range(measures):
                value[exit, found, m] = heads[exit, m] + ends[exit, m]
            found += _is_new(value[exit], found)
        count[exit] = found


@compiled
def _is_new(totals, place):
    """Whether the totals at a place differ from those before."""
    new = place == 0
    for m in range(totals.shape[1]):
        new = new or totals[place, m] != totals[place - 1, m]
    return new


@compiled
def count_changes(scores, right, policy, costs, counts):
    """Add to ``counts [E+2]``, for each start layer, the number of changes: all pieces of a sample but the first."""
    samples, exits, _ = scores.shape
    pieces = _room_for_pieces(scores, len(costs.engine_step))
    for n in range(samples):
        _find_pieces(scores[n], right[n], policy, costs, pieces)
        for exit in range(1, exits + 1):
            counts[exit] += pieces.number[exit] - 1


@compiled
def list_changes(scores, right, policy, costs, places, betas, changes, at_infinity):
    """List the changes of each start layer.

    Args:
        scores, right, policy, costs: as at the top of the module.
        places: ``[E+2]``, where the changes of a start layer begin, moved along while they are written; negative for a
            start layer that is left out.
        betas: ``[n]``, receives the beta at and below which a change holds.
        changes: ``[n, M+1]``, receives the changes of the totals.
        at_infinity: ``[E+2, M+1]`` zeros; receives the totals of the samples at beta = infinity.
    """
    samples, exits, _ = scores.shape
    columns = changes.shape[1]
    pieces = _room_for_pieces(scores, columns - 1)
    value = pieces.totals
    for n in range(samples):
        _find_pieces(scores[n], right[n], policy, costs, pieces)
        for exit in range(1, exits + 1):
            to = places[exit]
            if to < 0:
                continue
            for m in range(columns):
                at_infinity[exit, m] += value[exit, 0, m]
            for piece in range(1, pieces.number[exit]):
                betas[to] = pieces.high[exit, piece]
                for m in range(columns):
                    changes[to, m] = value[exit, piece, m] - value[exit, piece - 1, m]
                to += 1
            places[exit] = to


@compiled
def add_each_beta(scores, right, policy, costs, betas, sums):
    """Add up a grid of few betas: for each beta, one pass from the last exit to the first.

    Args:
        scores, right, policy, costs: as at the top of the module.
        betas: ``[B]``.
        sums: ``[E+2, B, M+1]`` zeros; receives the totals of all samples.
    """
    heads, step, ends = costs.heads, costs.engine_step, costs.ends
    next_exit, max_jump, beyond = policy.next_exit, policy.max_jump, policy.beyond
    samples, exits, _ = scores.shape
    measures = len(step)
    value = np.empty((exits + 2, measures + 1), dtype=np.int64)
    for n in range(samples):
        value[exits + 1, measures] = right[n, exits]
        for m in range(measures):
            value[exits + 1, m] = ends[exits + 1, m]
        for b in range(len(betas)):
            beta = betas[b]
            for exit in range(exits, 0, -1):
                if scores[n, exit - 1, 0] >= beta:
                    value[exit, measures] = right[n, exit - 1]
                    for m in range(measures):
                        value[exit, m] = heads[exit, m] + ends[exit, m]
                else:
                    target, steps = next_exit[exit], 0
                    if max_jump and exit < exits:
                        steps = max_jump
                        for k in range(1, max_jump):
                            if scores[n, exit - 1, k] > beta:
                                steps = k
                                break
                        target = exit + steps if exit + steps <= exits else beyond
                    value[exit, measures] = value[target, measures]
                    for m in range(measures):
                        value[exit, m] = value[target, m] + heads[exit, m] + steps * step[m]
                for m in range(measures + 1):
                    sums[exit, b, m] += value[exit, m]


@compiled
def add_changes(scores, right, policy, costs, betas, sums):
    """Add up a grid of many betas: one pass over the pieces of each sample.

    Args:
        scores, right, policy, costs: as at the top of the module.
        betas: ``[B]``, rising.
        sums: as of :func:`add_each_beta`, but receives the changes from each beta to the next higher one: the sums at
            betas[b] are the total of all places from b on.
    """
    samples, exits, _ = scores.shape
    columns = sums.shape[2]
    pieces = _room_for_pieces(scores, columns - 1)
    count, high, value = pieces.number, pieces.high, pieces.totals
    for n in range(samples):
        _find_pieces(scores[n], right[n], policy, costs, pieces)
        for exit in range(1, exits + 1):
            for piece in range(count[exit]):
                at = np.searchsorted(betas, high[exit, piece], side="right") - 1
                if at < 0:
                    break
                for m in range(columns):
                    sums[exit, at, m] += value[exit, piece, m]
                if piece:
                    for m in range(columns):
                        sums[exit, at, m] -= value[exit, piece - 1, m]


@compiled
def add_up(betas, changes, order, at_infinity, highs, points):
    """The operating points of one start layer, as beta falls from infinity. Returns the number of points.

    Changes at the same beta that cancel each other make no point.

    Args:
        betas, changes: ``[n]`` and ``[n, M+1]``, as of :func:`list_changes`, of one start layer.
        order: ``[n]``, the indices that sort the changes by rising beta.
        at_infinity: ``[M+1]``, the totals at beta = infinity.
        highs: ``[n+1]``, receives the largest beta of each point; a point holds down to the next point's largest beta.
        points: ``[n+1, M+1]``, receives the points.
    """
    columns = len(at_infinity)
    highs[0] = np.inf
    running = np.empty_like(at_infinity)
    for m in range(columns):  # an assignment of arrays compiles four times as long, for the words of its errors
        running[m] = points[0, m] = at_infinity[m]
    found, at = 1, len(order) - 1
    while at >= 0:
        here = betas[order[at]]
        while at >= 0 and betas[order[at]] == here:
            for m in range(columns):
                running[m] += changes[order[at], m]
            at -= 1
        highs[found] = here
        for m in range(columns):
            points[found, m] = running[m]
        found += _is_new(points, found)
    return found


@compiled
def keep_promising(hits, points, samples, allowed, kept):
    """Mark the points that no champion dominates: all points of the front, and few others. O(n M^2), three passes.

    The number of right answers has N + 1 values. For each value h, each cost has one champion: the cheapest point with
    at least h right answers. The sum of the costs, each divided by its largest value, has one champion too. A point
    that a champion dominates or equals is left out; of two equal points the first is kept. With a single cost exactly
    the front is left.

    Args:
        hits: ``[n]``, the right answers of the points.
        points: ``[n, M]``, their costs.
        samples: N.
        allowed: ``[n]``; other points are left out.
        kept: ``[n]``, all False; receives True for the points that are kept.
    """
    total, measures = points.shape
    scale = np.zeros(measures)
    for i in range(total):
        for m in range(measures):
            scale[m] = max(scale[m], float(points[i, m]))
    kinds = measures + 1 if measures > 1 else 1
    champion = np.full((samples + 2, kinds), -1)
    score = np.full((samples + 2, kinds), np.inf)
    for i in range(total):
        if not allowed[i]:
            continue
        for kind in range(kinds):
            worth = 0.0
            if kind < measures:
                worth = float(points[i, kind])
            else:
                for m in range(measures):
                    worth += points[i, m] / scale[m] if scale[m] > 0 else 0.0
            if worth < score[hits[i], kind]:
                score[hits[i], kind], champion[hits[i], kind] = worth, i
    for right in range(samples - 1, -1, -1):
        for kind in range(kinds):
            if score[right + 1, kind] <= score[right, kind]:
                score[right, kind], champion[right, kind] = score[right + 1, kind], champion[right + 1, kind]
    for i in range(total):
        if not allowed[i]:
            continue
        keep = True
        for kind in range(kinds):
            other = champion[hits[i], kind]
            if other == i:
                continue
            no_worse, equal = True, hits[other] == hits[i]
            for m in range(measures):
                no_worse = no_worse and points[other, m] <= points[i, m]
                equal = equal and points[other, m] == points[i, m]
            if no_worse and not (equal and other > i):
                keep = False
                break
        kept[i] = keep
