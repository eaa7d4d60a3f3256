"""The loops of replay, compiled: a whole trace in one pass over its table of ratios.

Private to `study`: the functions here take plain arrays, check nothing and raise nothing; `walks`, `grids` and
`fronts` are their callers. Each has a plain twin on arrays that the tests hold it against. All of them release the
interpreter's lock, so that threads share the samples.

Exits are numbered from 1 to E, E + 1 is the classifier; arrays over exits have a place 0 that nobody uses.

**Pieces.** For one sample, what happens from exit l on is a piecewise constant function of beta: a list of pieces
from high beta to low, each valid down to where the next one begins. At exit l a sample with beta <= r_l stops. Above,
the engine's jump is k for beta in (c_{k-1}, c_k], where c_k = the float64 just below max_{i<=k} r^i, c_0 = 0 and
c_K = infinity; there the pieces of exit l + k hold, each dearer by the head of exit l and k engine steps. One pass
from exit E back to exit 1 so gives the functions of all start layers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from platformdirs import user_cache_path


def _cache_folder() -> str | None:
    """The folder of compiled code: NUMBA_CACHE_DIR, else the user's cache folder; None where it cannot be written.

    numba's default is a folder beside this file. There the compiled code would outlive an uninstallation of the
    package, and the folder that stays would hide an editable installation from Python.
    """
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or user_cache_path("predictive-exit") / "numba")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return str(folder) if os.access(folder, os.W_OK | os.X_OK) else None


_CACHE_FOLDER = _cache_folder()


def _compiled(function: Any) -> Callable[..., Any]:
    """Compile at the first call, and keep the result on disk for the next process if a folder can be written."""
    usual = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = _CACHE_FOLDER or usual  # numba reads it while it decorates a function
    try:
        return numba.njit(nogil=True, cache=_CACHE_FOLDER is not None)(function)  # type: ignore[no-any-return]
    finally:
        numba.config.CACHE_DIR = usual


@_compiled
def fill_ratios(logits, thresholds, table):
    """``table[n, l, k]`` = max_c |z^k_lc| / theta_min(l+k, E), from ``logits [N, E+1, C]``; k = 0: the criterion."""
    samples, exits, width = table.shape
    classes = logits.shape[2]
    here, ahead = np.zeros(classes + 2), np.zeros(classes + 2)
    for n in range(samples):
        for exit in range(exits):
            for c in range(classes):
                here[c + 1] = logits[n, exit, c]
            for k in range(width):
                if k:
                    for c in range(1, classes + 1):
                        ahead[c] = here[c - 1] + here[c] + here[c + 1]
                    here, ahead = ahead, here
                largest = 0.0
                for c in range(1, classes + 1):
                    largest = max(largest, abs(here[c]))
                theta = thresholds[min(exit + k, exits - 1)]
                table[n, exit, k] = np.inf if theta == 0 else largest / theta


@_compiled
def walk(table, first, beta, next_exit, max_jump, beyond, exit_index, tried, engine_steps):
    """Fill ``exit_index [N]``, ``tried [N, E]`` and ``engine_steps [N]`` with the way of each sample.

    ``beta [E+1]`` by exit; ``next_exit [E+1]`` is where a sample goes that no engine guides (``max_jump`` 0).
    """
    samples, exits, _ = table.shape
    for n in range(samples):
        exit, steps = first, 0
        while exit <= exits:
            tried[n, exit - 1] = True
            if table[n, exit - 1, 0] >= beta[exit]:
                break
            if max_jump == 0 or exit == exits:
                exit = next_exit[exit]
                continue
            jump = max_jump
            for k in range(1, max_jump):
                if table[n, exit - 1, k] > beta[min(exit + k, exits)]:
                    jump = k
                    break
            steps += jump
            exit = exit + jump if exit + jump <= exits else beyond
        exit_index[n] = exit
        engine_steps[n] = steps


@_compiled
def tally(table, right, first, beta, next_exit, max_jump, beyond, stopped, tried):
    """Count what :func:`walk` lists: ``stopped [E+2]``, ``tried [E+1]``; returns (right answers, engine steps).

    The same loop written again: a step that both share, even inlined, takes three to six times as long.
    """
    samples, exits, _ = table.shape
    hits, steps = 0, 0
    for n in range(samples):
        exit = first
        while exit <= exits:
            tried[exit] += 1
            if table[n, exit - 1, 0] >= beta[exit]:
                break
            if max_jump == 0 or exit == exits:
                exit = next_exit[exit]
                continue
            jump = max_jump
            for k in range(1, max_jump):
                if table[n, exit - 1, k] > beta[min(exit + k, exits)]:
                    jump = k
                    break
            steps += jump
            exit = exit + jump if exit + jump <= exits else beyond
        stopped[exit] += 1
        hits += right[n, exit - 1]
    return hits, steps


@_compiled
def _pieces(ratios, right, next_exit, max_jump, beyond, heads, step, ends, count, high, hit, value):
    """The pieces of one sample from every exit on: ``count [E+2]``, ``high``, ``hit [E+2, P]``, ``value [E+2, P, M]``.

    ``ratios [E, K+1]`` and ``right [E+1]`` are the sample's; ``heads [E+1, M]``, ``step [M]`` and ``ends [E+2, M]``
    (all segments up to an exit) are what things cost. ``high[l, p]`` is the largest beta of a piece.
    """
    exits, measures = len(ratios), len(step)
    count[exits + 1] = 1
    high[exits + 1, 0] = np.inf
    hit[exits + 1, 0] = right[exits]
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
                hit[exit, found] = hit[target, piece]
                same = found > 0 and hit[exit, found - 1] == hit[exit, found]
                for m in range(measures):
                    value[exit, found, m] = value[target, piece, m] + heads[exit, m] + steps * step[m]
                    same = same and value[exit, found - 1, m] == value[exit, found, m]
                if not same:
                    found += 1
                piece += 1
        if stop > 0:
            high[exit, found] = stop
            hit[exit, found] = right[exit - 1]
            same = found > 0 and hit[exit, found - 1] == hit[exit, found]
            for m in range(measures):
                value[exit, found, m] = heads[exit, m] + ends[exit, m]
                same = same and value[exit, found - 1, m] == value[exit, found, m]
            if not same:
                found += 1
        count[exit] = found


@_compiled
def count_changes(table, right, next_exit, max_jump, beyond, heads, step, ends, counts):
    """Add to ``counts [E+2]`` the pieces, less the first one, of each start layer."""
    samples, exits, width = table.shape
    room = exits * width + 2
    count, high = np.zeros(exits + 2, dtype=np.int64), np.empty((exits + 2, room))
    hit, value = np.empty((exits + 2, room), dtype=np.int8), np.empty((exits + 2, room, len(step)), dtype=np.int64)
    for n in range(samples):
        _pieces(table[n], right[n], next_exit, max_jump, beyond, heads, step, ends, count, high, hit, value)
        for exit in range(1, exits + 1):
            counts[exit] += count[exit] - 1


@_compiled
def list_changes(
    table, right, next_exit, max_jump, beyond, heads, step, ends, place, beta, change_of_hits, change, hits, sums
):
    """Write the changes of each start layer from ``place [E+2]`` on (negative: not this one), which moves along.

    A change: at ``beta`` and below, ``change_of_hits`` more right answers and ``change [M]`` more of each cost.
    ``hits [E+2]`` and ``sums [E+2, M]`` receive what holds for beta = infinity.
    """
    samples, exits, width = table.shape
    room, measures = exits * width + 2, len(step)
    count, high = np.zeros(exits + 2, dtype=np.int64), np.empty((exits + 2, room))
    hit, value = np.empty((exits + 2, room), dtype=np.int8), np.empty((exits + 2, room, measures), dtype=np.int64)
    for n in range(samples):
        _pieces(table[n], right[n], next_exit, max_jump, beyond, heads, step, ends, count, high, hit, value)
        for exit in range(1, exits + 1):
            to = place[exit]
            if to < 0:
                continue
            hits[exit] += hit[exit, 0]
            for m in range(measures):
                sums[exit, m] += value[exit, 0, m]
            for piece in range(1, count[exit]):
                beta[to] = high[exit, piece]
                change_of_hits[to] = hit[exit, piece] - hit[exit, piece - 1]
                for m in range(measures):
                    change[to, m] = value[exit, piece, m] - value[exit, piece - 1, m]
                to += 1
            place[exit] = to


@_compiled
def add_points(table, right, next_exit, max_jump, beyond, heads, step, ends, betas, hits, sums):
    """:func:`add_changes` for few betas: one pass from the last exit to the first for each of them.

    ``hits [E+2, B]`` and ``sums [E+2, B, M]`` receive the values themselves, not their changes.
    """
    samples, exits, _ = table.shape
    measures = len(step)
    hit, value = np.empty(exits + 2, dtype=np.int8), np.empty((exits + 2, measures), dtype=np.int64)
    for n in range(samples):
        hit[exits + 1] = right[n, exits]
        for m in range(measures):
            value[exits + 1, m] = ends[exits + 1, m]
        for b in range(len(betas)):
            beta = betas[b]
            for exit in range(exits, 0, -1):
                if table[n, exit - 1, 0] >= beta:
                    hit[exit] = right[n, exit - 1]
                    for m in range(measures):
                        value[exit, m] = heads[exit, m] + ends[exit, m]
                else:
                    target, steps = next_exit[exit], 0
                    if max_jump and exit < exits:
                        steps = max_jump
                        for k in range(1, max_jump):
                            if table[n, exit - 1, k] > beta:
                                steps = k
                                break
                        target = exit + steps if exit + steps <= exits else beyond
                    hit[exit] = hit[target]
                    for m in range(measures):
                        value[exit, m] = value[target, m] + heads[exit, m] + steps * step[m]
                hits[exit, b] += hit[exit]
                for m in range(measures):
                    sums[exit, b, m] += value[exit, m]


@_compiled
def add_changes(table, right, next_exit, max_jump, beyond, heads, step, ends, betas, hits, sums):
    """Add up a grid: ``hits [E+2, B]`` and ``sums [E+2, B, M]`` receive the changes between neighbours of ``betas``.

    ``betas [B]`` rise. The value at betas[b] is the sum of all places from b on.
    """
    samples, exits, width = table.shape
    room, measures = exits * width + 2, len(step)
    count, high = np.zeros(exits + 2, dtype=np.int64), np.empty((exits + 2, room))
    hit, value = np.empty((exits + 2, room), dtype=np.int8), np.empty((exits + 2, room, measures), dtype=np.int64)
    for n in range(samples):
        _pieces(table[n], right[n], next_exit, max_jump, beyond, heads, step, ends, count, high, hit, value)
        for exit in range(1, exits + 1):
            for piece in range(count[exit]):
                at = np.searchsorted(betas, high[exit, piece], side="right") - 1
                if at < 0:
                    break
                hits[exit, at] += hit[exit, piece]
                for m in range(measures):
                    sums[exit, at, m] += value[exit, piece, m]
                if piece:
                    hits[exit, at] -= hit[exit, piece - 1]
                    for m in range(measures):
                        sums[exit, at, m] -= value[exit, piece - 1, m]


@_compiled
def add_up(beta, order, change_of_hits, change, hits, sums, highs, point_hits, points):
    """The operating points of one start layer, as beta falls from infinity; returns how many there are.

    ``order`` sorts ``beta`` upwards. ``hits`` and ``sums [M]`` are those of beta = infinity. ``highs``, ``point_hits``
    and ``points [., M]`` receive the points; each holds down to the next one's high. Changes that cancel make none.
    """
    measures = len(sums)
    running = sums.copy()
    highs[0], point_hits[0] = np.inf, hits
    for m in range(measures):
        points[0, m] = running[m]
    found, at = 1, len(order) - 1
    while at >= 0:
        here = beta[order[at]]
        while at >= 0 and beta[order[at]] == here:
            hits += change_of_hits[order[at]]
            for m in range(measures):
                running[m] += change[order[at], m]
            at -= 1
        same = point_hits[found - 1] == hits
        for m in range(measures):
            same = same and points[found - 1, m] == running[m]
        if not same:
            highs[found], point_hits[found] = here, hits
            for m in range(measures):
                points[found, m] = running[m]
            found += 1
    return found


@_compiled
def keep_promising(hits, points, samples, allowed, kept):
    """Mark in ``kept [n]`` the ``allowed`` points that no champion dominates.

    Right answers have N + 1 values. Among the points with at least so many there is, for each cost and for their sum
    (each relative to its largest), one champion that has the least. What a champion dominates, or equals, is no part
    of the front; of two equal points the first is kept. With a single cost nothing else is left to filter.
    Three passes, O(n M^2).
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
