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
from study.fronts.matched_cost import bootstrapped_costs, matched_costs
from study.policies.replay import replay
from study.search.cheapest import Objective, PolicyFamily, family_front
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


def outcome(
    point: OperatingPoint,
    split: SplitLogits,
    reference: TracedNetwork,
    reference_split: SplitLogits,
    objective: Objective,
) -> Outcome:
    """Replay a point on a split; ``reference_split`` holds the reference network's logits of the same images."""
    network = point.network
    walk = replay(network.trace(point.statistic, split), point.policy)
    right = (walk.predictions == split.labels).astype(np.float64)
    cost = network.costs_of(point.policy).per_sample(walk, objective) / reference.costs.classic(objective)
    return Outcome(classic_right(reference_split) - right, cost)


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
    halves = [network.on(half) for half in (first, second)]
    classic = [_take(reference.validation, half) for half in (first, second)]
    chosen: dict[tuple[PolicyFamily, float], list[Outcome]] = {}
    for own, other in ((0, 1), (1, 0)):
        accuracy, unseen = float(classic_right(classic[own]).mean()), halves[other]
        for family in families:
            front = family_front(spec, halves[own], family, objective, accuracy - max(drops))
            for drop in drops:
                found = front.cheapest(accuracy, drop)
                if found is not None:
                    moved = replace(found, network=unseen)
                    priced = outcome(moved, unseen.validation, reference, classic[other], objective)
                    chosen.setdefault((family, drop), []).append(priced)
    samples = np.concatenate([second, first])
    return {key: _join(outcomes, samples) for key, outcomes in chosen.items() if len(outcomes) == 2}


def around(drops: Sequence[float]) -> list[float]:
    """The bounds, with tighter and looser ones beside each, so that a curve has points on both sides of each loss."""
    return sorted({share * drop for drop in drops for share in (0.5, 1.0, 1.5)})


@dataclass(frozen=True, eq=False)
class MatchedCosts:
    """The cost of a family at L losses, of all images and of R bootstrap samples of them."""

    mean: Floats
    """``[L]``."""
    draws: Floats
    """``[R, L]``."""

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], losses: Sequence[float], drawn: Floats) -> MatchedCosts:
        """The costs of the curve through some outcomes, which have N images each (:mod:`study.fronts.matched_cost`).

        Args:
            outcomes: of the settings of a family.
            losses: L losses.
            drawn: ``[R, N]``, of :func:`study.fronts.matched_cost.resamples`.
        """
        loss, cost = (np.stack([getattr(one, name) for one in outcomes]) for name in ("loss", "cost"))
        mean = matched_costs(cost.mean(axis=1), loss.mean(axis=1), losses)
        return cls(mean, bootstrapped_costs(cost, loss, losses, drawn))


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
