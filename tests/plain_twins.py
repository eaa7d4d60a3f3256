"""The method of the paper, one sample at a time, in plain Python: the twin that proves the array code.

Written from the formulas alone: nothing of `study` is used but the settings that a policy object holds.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import inf

import numpy as np

from study.policies import Classic, Hierarchical, Placed, Predictive, Static


@dataclass
class PlainWalk:
    """One sample's way: where it stopped, what it answered, the exits whose heads ran, smoothing steps run."""

    exit: int
    answer: int
    tried: list[int]
    steps: int


def largest(logits) -> float:
    """max_c |z_c|."""
    return max(abs(float(z)) for z in logits)


def ratio(activation: float, theta: float) -> float:
    """a / theta, infinite where theta is 0."""
    return inf if theta == 0 else activation / theta


def smooth(logits) -> list[float]:
    """Convolution over the class axis with [1, 1, 1], zero padded."""
    padded = [0.0, *map(float, logits), 0.0]
    return [padded[c - 1] + padded[c] + padded[c + 1] for c in range(1, len(padded) - 1)]


def engine_ratios(sample, thetas, exit: int, max_jump: int) -> list[float]:
    """r^k for k = 1..K_max at exit l: max_c |z^k_c| / theta_min(l+k, E)."""
    z, result = sample[exit - 1], []
    for k in range(1, max_jump + 1):
        z = smooth(z)
        result.append(ratio(largest(z), float(thetas[min(exit + k, len(thetas)) - 1])))
    return result


def engine(sample, thetas, exit: int, beta: float, max_jump: int) -> int:
    """The predicted jump: the smallest k with r^k > beta, else K_max."""
    hits = [k for k, r in enumerate(engine_ratios(sample, thetas, exit, max_jump), start=1) if r > beta]
    return min(hits, default=max_jump)


def stops(sample, thetas, exit: int, beta: float) -> bool:
    """The exit criterion."""
    return ratio(largest(sample[exit - 1]), float(thetas[exit - 1])) >= beta


def plain_walk(sample, thetas, policy) -> PlainWalk:
    """Walk one sample `[E+1, C]` through E exits."""
    exits, tried, steps = len(thetas), [], 0
    end = exits + 1
    if isinstance(policy, Static):
        tried, end = [policy.exit], policy.exit
    elif isinstance(policy, Hierarchical | Placed):
        chosen = policy.exits if isinstance(policy, Placed) else range(policy.start_layer, exits + 1)
        for exit in chosen:
            tried.append(exit)
            if stops(sample, thetas, exit, policy.beta):
                end = exit
                break
    elif isinstance(policy, Predictive):
        exit = policy.start_layer
        while exit <= exits:
            tried.append(exit)
            if stops(sample, thetas, exit, policy.beta):
                end = exit
                break
            if exit == exits:
                break
            jump = engine(sample, thetas, exit, policy.beta, policy.max_jump)
            steps += jump
            if exit + jump > exits:
                if policy.overshoot == "classifier":
                    break
                jump = exits - exit
            exit += jump
    else:
        assert isinstance(policy, Classic)
    scores = [float(z) for z in sample[end - 1]]
    return PlainWalk(end, scores.index(max(scores)), tried, steps)


def plain_walks(trace, policy) -> list[PlainWalk]:
    """Walk every sample of a trace."""
    return [plain_walk(sample, trace.thresholds, policy) for sample in trace.logits]


def plain_cost(walk: PlainWalk, segments, heads, step: float) -> float:
    """All segments up to the end of the walk, each head that ran, each smoothing step."""
    total = 0.0
    for segment in range(1, walk.exit + 1):
        total += float(segments[segment - 1])
    for exit in walk.tried:
        total += float(heads[exit - 1])
    return total + walk.steps * step


def plain_prediction_accuracy(trace, beta: float, start_layer: int, max_jump: int) -> tuple[float, int]:
    """Predicted jump at L_0 against the distance to where the hierarchical walk stops (E + 1 - L_0 if nowhere)."""
    right, asked = 0, 0
    for sample in trace.logits:
        if stops(sample, trace.thresholds, start_layer, beta):
            continue
        asked += 1
        distance = plain_walk(sample, trace.thresholds, Hierarchical(beta, start_layer)).exit - start_layer
        predicted = engine(sample, trace.thresholds, start_layer, beta, max_jump)
        right += predicted == distance or (predicted == max_jump and distance >= max_jump)
    return (right / asked if asked else float("nan")), asked


def all_ratios(trace, max_jump: int) -> list[float]:
    """Every ratio that some policy may compare with beta; sorted, each once."""
    found = set()
    for sample in trace.logits:
        for exit in range(1, len(trace.thresholds) + 1):
            found.add(ratio(largest(sample[exit - 1]), float(trace.thresholds[exit - 1])))
            found.update(engine_ratios(sample, trace.thresholds, exit, max_jump))
    return sorted(found)


def telling_betas(trace, max_jump: int) -> list[float]:
    """Values of beta that meet every operating point: at each ratio, just below, just above, and between."""
    edges = {inf, 1.0}
    for r in all_ratios(trace, max_jump):
        edges.update((r, float(np.nextafter(r, -inf)), float(np.nextafter(r, inf))))
    cuts = sorted(edge for edge in edges if edge > 0)
    finite = [cut for cut in cuts if cut < inf]
    between = [low / 2 + high / 2 for low, high in pairwise(finite)]
    return sorted({*cuts, *between, finite[0] / 2 or finite[0], min(2 * finite[-1], 1e308)})
