"""The method of the paper, one sample at a time, in plain Python: the twin that proves the array code.

Written from the formulas alone: nothing of `study` is used but the settings that a policy object holds.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import exp, fsum, inf, log
from sys import float_info

import numpy as np

from study.policies.policies import Classic, Hierarchical, Placed, Predictive, Static


@dataclass
class PlainWalk:
    """One sample's way: where it stopped, what it answered, the exits whose heads ran, smoothing steps run."""

    exit: int
    answer: int
    tried: list[int]
    steps: int


# --- exit criteria ---------------------------------------------------------------------------------------------------


def largest(logits) -> float:
    """max_c |z_c|."""
    return max(abs(float(z)) for z in logits)


def ratio(activation: float, theta: float) -> float:
    """a / theta, infinite where theta is 0."""
    return inf if theta == 0 else activation / theta


def answer_of(logits) -> int:
    """The class of the largest logit; the first of equal ones."""
    values = [float(z) for z in logits]
    return values.index(max(values))


def probabilities(logits) -> list[float]:
    """p_c = exp(z_c) / sum exp(z)."""
    top = max(float(z) for z in logits)
    weights = [exp(float(z) - top) for z in logits]
    return [weight / fsum(weights) for weight in weights]


def run_length(answers: list[int]) -> int:
    """How many answers at the end of the list are the same."""
    run = 0
    while run < len(answers) and answers[-1 - run] == answers[-1]:
        run += 1
    return run


def confidence_of(criterion: str, logits) -> float:
    """max p, 1 - H / ln C, p_1st - p_2nd, or -ln(1 - (p_1st - p_2nd)); 1 where there is a single class."""
    p = sorted(probabilities(logits), reverse=True)
    if len(p) == 1 or criterion == "max_softmax":
        return p[0]
    if criterion == "log_margin":
        unsure = fsum(p[1:]) + p[1]  # 1 - p_1st + p_2nd, without cancellation
        return max(-log(max(unsure, float_info.min)), 0.0)
    if criterion == "margin":
        return p[0] - p[1]
    assert criterion == "entropy"
    return 1 + fsum(share * log(share) for share in p if share > 0) / log(len(p))


def score(criterion: str, logits, theta: float, label: int, answers: list[int]) -> float:
    """What is compared with beta at an exit; ``answers`` are those of all exits tried so far, this one's last."""
    if criterion == "logit":
        return ratio(largest(logits), theta)
    if criterion == "patience":
        return run_length(answers)
    if criterion == "oracle":
        return inf if answers[-1] == label else 0
    return confidence_of(criterion, logits)


def beta_of(beta, exit: int) -> float:
    """The one beta, or the exit's own."""
    return beta[exit - 1] if isinstance(beta, tuple) else beta


def stops(sample, thetas, exit: int, beta) -> bool:
    """The paper's exit criterion."""
    return ratio(largest(sample[exit - 1]), float(thetas[exit - 1])) >= beta_of(beta, exit)


# --- prediction engine -----------------------------------------------------------------------------------------------


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


def engine(sample, thetas, exit: int, beta, max_jump: int) -> int:
    """The predicted jump: the smallest k with r^k > the beta of exit min(l+k, E), else K_max."""
    ratios = enumerate(engine_ratios(sample, thetas, exit, max_jump), start=1)
    hits = [k for k, r in ratios if r > beta_of(beta, min(exit + k, len(thetas)))]
    return min(hits, default=max_jump)


# --- walks -----------------------------------------------------------------------------------------------------------


def plain_walk(sample, label: int, thetas, policy) -> PlainWalk:
    """Walk one sample `[E+1, C]` through E exits."""
    exits, tried, answers, steps = len(thetas), [], [], 0

    def ends_at(exit: int) -> bool:
        tried.append(exit)
        answers.append(answer_of(sample[exit - 1]))
        reached = score(policy.criterion, sample[exit - 1], float(thetas[exit - 1]), label, answers)
        return reached >= beta_of(policy.beta, exit)

    end = exits + 1
    if isinstance(policy, Static):
        tried, end = [policy.exit], policy.exit
    elif isinstance(policy, Hierarchical | Placed):
        chosen = policy.exits if isinstance(policy, Placed) else range(policy.start_layer, exits + 1)
        end = next((exit for exit in chosen if ends_at(exit)), end)
    elif isinstance(policy, Predictive):
        exit = policy.start_layer
        while exit <= exits:
            if ends_at(exit):
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
    return PlainWalk(end, answer_of(sample[end - 1]), tried, steps)


def plain_walks(trace, policy) -> list[PlainWalk]:
    """Walk every sample of a trace."""
    pairs = zip(trace.logits, trace.labels, strict=True)
    return [plain_walk(sample, int(label), trace.thresholds, policy) for sample, label in pairs]


def plain_cost(walk: PlainWalk, segments, heads, step: float) -> float:
    """All segments up to the end of the walk, each head that ran, each smoothing step."""
    total = 0.0
    for segment in range(1, walk.exit + 1):
        total += float(segments[segment - 1])
    for exit in walk.tried:
        total += float(heads[exit - 1])
    return total + walk.steps * step


def plain_predictions(trace, beta: float, start_layer: int, max_jump: int) -> list[tuple[int, int]]:
    """(predicted jump, distance) of each sample that does not stop at L_0.

    The distance is that to where the hierarchical walk stops, E + 1 - L_0 if nowhere.
    """
    found = []
    for sample, walk in zip(trace.logits, plain_walks(trace, Hierarchical(beta, start_layer)), strict=True):
        if not stops(sample, trace.thresholds, start_layer, beta):
            predicted = engine(sample, trace.thresholds, start_layer, beta, max_jump)
            found.append((predicted, walk.exit - start_layer))
    return found


def plain_prediction_accuracy(trace, beta: float, start_layer: int, max_jump: int) -> tuple[float, int]:
    """Share of right predictions, and how many there are; one of K_max is right for K_max or more."""
    pairs = plain_predictions(trace, beta, start_layer, max_jump)
    right = [jump == distance or (jump == max_jump and distance >= max_jump) for jump, distance in pairs]
    return (sum(right) / len(right) if right else float("nan")), len(right)


# --- betas that tell walks apart -------------------------------------------------------------------------------------


def all_ratios(trace, max_jump: int) -> list[float]:
    """Every ratio that some policy may compare with beta; sorted, each once."""
    found = set()
    for sample in trace.logits:
        for exit in range(1, len(trace.thresholds) + 1):
            found.add(ratio(largest(sample[exit - 1]), float(trace.thresholds[exit - 1])))
            found.update(engine_ratios(sample, trace.thresholds, exit, max_jump))
    return sorted(found)


def all_confidences(trace, criterion: str) -> list[float]:
    """Every score of a criterion that looks at one exit's softmax; sorted, each once."""
    return sorted({confidence_of(criterion, logits) for sample in trace.logits for logits in sample[:-1]})


def betas_about(scores) -> list[float]:
    """Values of beta that meet every operating point: at each score, just below, just above, and between."""
    edges = {inf, 1.0}
    for r in map(float, scores):
        edges.update((r, float(np.nextafter(r, -inf)), float(np.nextafter(r, inf))))
    cuts = sorted(edge for edge in edges if edge > 0)
    finite = [cut for cut in cuts if cut < inf]
    between = [low / 2 + high / 2 for low, high in pairwise(finite)]
    return sorted({*cuts, *between, finite[0] / 2 or finite[0], min(2 * finite[-1], 1e308)})


def telling_betas(trace, max_jump: int) -> list[float]:
    """:func:`betas_about` all ratios of the paper's criterion and engine."""
    return betas_about(all_ratios(trace, max_jump))
