"""The losses and costs of chosen operating points on images that did not choose them.

A family with more settings fits the validation images better: of two families that keep the same bound on the images
that chose, the richer family loses more on other images. Cross-fitting shows the true loss without test images. The
validation split is cut into two halves; each half chooses points, and the other half prices the chosen points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from search_spaces.spec import OperatingPointsSpec
from study.arrays import Floats, Integers
from study.policies.replay import replay
from study.search.cheapest import CheapestPoints, Objective, PolicyFamily
from study.search.operating_point import OperatingPoint
from study.search.traced_network import TracedNetwork
from study.traces.trace import SplitLogits


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a point costs and loses on N images, against the reference network."""

    loss: Floats
    """``[N]``: 1 where only the reference network is right, -1 where only the point is right, else 0."""
    cost: Floats
    """``[N]``, shares of the reference network's cost."""


def outcome(point: OperatingPoint, split: SplitLogits, reference: TracedNetwork, objective: Objective) -> Outcome:
    """Replay a point on some images of a split. ``reference`` has the same images as its validation split."""
    network = point.network
    walk = replay(network.trace(point.statistic, split), point.policy)
    right = (walk.predictions == split.labels).astype(np.float64)
    cost = network.costs.per_sample(walk, objective) / reference.costs.classic(objective)
    return Outcome(classic_right(reference.validation) - right, cost)


def classic_right(split: SplitLogits) -> Floats:
    """``[N]``: 1 where the classifier of the network without exits is right, else 0."""
    return np.asarray(split.logits[:, -1].argmax(axis=1) == split.labels, dtype=np.float64)


def cross_fit(
    spec: OperatingPointsSpec,
    network: TracedNetwork,
    reference: TracedNetwork,
    families: Iterable[PolicyFamily],
    drops: Sequence[float],
    objective: Objective,
) -> dict[tuple[PolicyFamily, float], Outcome]:
    """(family, drop) -> the outcome on all validation images, each priced by a point that the other half chose.

    A family that has no point within a bound on one of the halves is left out there.
    """
    first, second = _halves(len(network.validation.labels))
    chosen: dict[tuple[PolicyFamily, float], list[Outcome]] = {}
    for choosing, unseen in ((first, second), (second, first)):
        own = replace(network, validation=_take(network.validation, choosing))
        accuracy = float(classic_right(_take(reference.validation, choosing)).mean())
        others, its_reference = (replace(one, validation=_take(one.validation, unseen)) for one in (network, reference))
        points = CheapestPoints(spec, own, accuracy, drops, objective)
        for family in families:
            for drop, found in points.choose(family).items():
                priced = outcome(replace(found, network=others), others.validation, its_reference, objective)
                chosen.setdefault((family, drop), []).append(priced)
    samples = np.concatenate([second, first])
    return {key: _join(outcomes, samples) for key, outcomes in chosen.items() if len(outcomes) == 2}


def around(drops: Sequence[float]) -> list[float]:
    """The bounds, with tighter and looser ones beside each, so that :func:`cheapest_mix` has neighbours to mix."""
    return sorted({share * drop for drop in drops for share in (0.5, 1.0, 1.5)})


def cheapest_mix(outcomes: Sequence[Outcome], drop: float) -> Outcome | None:
    """The cheapest mix of at most two outcomes whose mean loss is at most ``drop``; None where every mix loses more.

    A mix uses one point for a share of the images, drawn by chance, and another point for the other images. The mean
    loss and the mean cost of the mix lie between those of the two points. Families that are mixed to the same loss
    can be compared by cost.
    """
    means = [(float(one.loss.mean()), float(one.cost.mean())) for one in outcomes]
    best: tuple[float, Outcome] | None = None
    for (low, cheap), below in zip(means, outcomes, strict=True):
        if low > drop:
            continue
        mixes = [(cheap, below)]
        for (high, other), above in zip(means, outcomes, strict=True):
            if high > drop:
                share = (drop - low) / (high - low)
                mixed = Outcome(
                    (1 - share) * below.loss + share * above.loss, (1 - share) * below.cost + share * above.cost
                )
                mixes.append(((1 - share) * cheap + share * other, mixed))
        best = min([*mixes, *([best] if best else [])], key=lambda one: one[0])
    return best[1] if best else None


def _halves(samples: int) -> tuple[Integers, Integers]:
    """Two random halves of the images, the same ones for every network: images may be stored class by class."""
    order = np.random.default_rng(0).permutation(samples)
    return np.sort(order[: samples // 2]), np.sort(order[samples // 2 :])


def _take(split: SplitLogits, samples: Integers) -> SplitLogits:
    return replace(split, logits=split.logits[samples], labels=split.labels[samples])


def _join(outcomes: Sequence[Outcome], samples: Integers) -> Outcome:
    """Outcomes on parts of the images as one outcome in the order of the images; ``samples`` are those of the parts."""
    order = np.argsort(samples)
    losses, costs = ([getattr(one, name) for one in outcomes] for name in ("loss", "cost"))
    return Outcome(np.concatenate(losses)[order], np.concatenate(costs)[order])
