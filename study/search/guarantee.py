"""A guarantee for points of the front: with a stated confidence they lose little accuracy on new images.

The loss of a point is counted against the reference network without exits, the one from which `front` counts all
shares: in a study of one network in fp32, the network's own classifier.

**The path** is fixed on validation, before the images that certify are looked at (Pareto testing, Laufer-Goldshtein et
al., ICLR 2023; learn then test, Angelopoulos et al., 2021). It goes from safe to cheap: the points of the front by
falling validation accuracy, each with fewer FLOPs than all before it. Any path fixed in this way is valid; a bad one
only ends early. Three choices make it end late:

- The path mixes policies and networks. At each loss the front has the cheapest setting of all, and the path of one
  policy alone has dearer ones.
- Points that lose more than twice the limit on validation are left out. They could hardly be certified, and where the
  path is thinned they would take the places of points near the limit. With them a path of 40 points certified up to
  30 % dearer points on the reference studies.
- Of the others at most 40 are kept, spread evenly. Many points close together give the noise of a single one more
  chances to end the walk; few points make large steps. On the reference studies 20 points and more certified the same
  costs to within 3 %, 10 points up to 6 % dearer ones, 6 points up to 18 %.

**The walk** tests the points in this order with the betting bound (:mod:`study.search.betting_bound`), each at the full
confidence, and ends at the first that fails. The points before it are certified, all at the same time.

The images that certify must have chosen nothing else: neither an epoch, nor a trial, nor a point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from results.pareto import non_dominated
from results.parts import rows_of
from search_spaces.spec import GuaranteeSpec
from study.arrays import Floats
from study.policies.replay import replay
from study.search.betting_bound import betting_order, count_certified, drop_bound, images_needed
from study.search.cross_fit import classic_right
from study.search.operating_point import OperatingPoint, point_of
from study.search.traced_network import TracedNetwork, reference_network
from study.traces.trace import SplitLogits

_LENGTH = 40
_BEYOND = 2.0
"""Points that lose more than this many times the limit on validation are left out of the path."""


@dataclass(frozen=True)
class Certification:
    """The result of :func:`certified_points`."""

    guarantee: GuaranteeSpec
    path: tuple[int, ...]
    """Positions in the front, from safe to cheap."""
    certified: int
    """The number of points at the beginning of the path that are certified."""
    samples: int
    """The number of images that certified."""
    losses: tuple[float, ...]
    """Mean losses on these images of the points that were tested: those certified, and the first that failed."""
    bounds: tuple[float, ...]
    """Their upper bounds."""
    needed: int | None
    """About how many images would certify the first point of the path. None where a point is certified, and where no
    number would do."""

    @property
    def positions(self) -> tuple[int, ...]:
        """The certified points, from safe to cheap: the last one is the cheapest."""
        return self.path[: self.certified]

    def columns(self, position: int) -> dict[str, Any]:
        """The columns ``certified_*`` of a row of the front; empty where the row is not certified."""
        if position not in self.positions:
            return {}
        return {
            "certified_drop": self.guarantee.accuracy_drop,
            "certified_confidence": self.guarantee.confidence,
            "certified_samples": self.samples,
        }

    def sentence(self) -> str:
        """What was certified, or why nothing was, in one line."""
        asked = f"guarantee ({guarantee_words(self.guarantee)})"
        if self.certified:
            some = "1 point" if self.certified == 1 else f"{self.certified} points"
            return f"{asked}: {some} of the front certified on {self.samples} images"
        if not self.path:
            return f"{asked}: no point certified: every point of the front loses more than twice that on validation"
        line = (
            f"{asked}: no point certified on {self.samples} images; the safest point loses "
            f"{self.losses[0] * 100:.2f} points on them, and up to {self.bounds[0] * 100:.2f} on new ones"
        )
        if self.needed is None:
            return f"{line}: more images of this kind would not certify it"
        return f"{line}: about {self.needed} such images would certify it"


def guarantee_words(guarantee: GuaranteeSpec) -> str:
    """A guarantee in words."""
    points = guarantee.accuracy_drop * 100
    lost = f"at most {points:g} point{'' if points == 1 else 's'} lost on new images"
    return f"{lost}, with {guarantee.confidence * 100:g} % confidence"


def safe_to_cheap(front: pd.DataFrame, reference_accuracy: float, limit: float) -> tuple[int, ...]:
    """The path: positions in a front, in the order in which its points are tested.

    Args:
        front: rows with ``accuracy`` on validation and ``flops``.
        reference_accuracy: validation accuracy of the reference network without exits.
        limit: the most accuracy that may be lost.
    """
    accuracies, flops = (front[name].to_numpy(dtype=np.float64) for name in ("accuracy", "flops"))
    near = np.flatnonzero(accuracies >= reference_accuracy - _BEYOND * limit - 1e-12)
    best = near[non_dominated(np.column_stack([accuracies, flops])[near], maximize=[True, False])]
    ordered = best[np.lexsort((flops[best], -accuracies[best]))]
    places = np.linspace(0, len(ordered) - 1, min(_LENGTH, len(ordered))).round().astype(np.int64)
    return tuple(ordered[np.unique(places)].tolist())


def certified_points(
    front: pd.DataFrame,
    networks: Sequence[TracedNetwork],
    guarantee: GuaranteeSpec,
    logits: Callable[[TracedNetwork], SplitLogits],
) -> Certification:
    """Fix the path on validation, then test its points, from safe to cheap, on images that chose nothing.

    Args:
        front: from :func:`study.search.test_front.front_of`.
        networks: the networks that were searched.
        guarantee: the limit and the confidence.
        logits: the trace of a network on the images that certify. It is asked for only when the path is fixed.
    """
    reference = reference_network(networks)
    limit, confidence = guarantee.accuracy_drop, guarantee.confidence
    path = safe_to_cheap(front, reference.classic_accuracy, limit)
    if not path:
        return Certification(guarantee, (), 0, 0, (), (), None)
    classic = classic_right(logits(reference))
    tested: list[Floats] = []

    def walk() -> Iterator[Floats]:
        for row in rows_of(front.iloc[list(path)]):
            point = point_of(row, networks)
            tested.append(classic - right_answers(point, logits(point.network)))
            yield tested[-1]

    certified = count_certified(walk(), limit, confidence)
    return Certification(
        guarantee,
        path,
        certified,
        len(classic),
        tuple(float(losses.mean()) for losses in tested),
        tuple(float(drop_bound(losses, confidence)) for losses in tested),
        None if certified else images_needed(tested[0], limit, confidence),
    )


def right_answers(point: OperatingPoint, split: SplitLogits) -> Floats:
    """``[N]``: 1 where a point is right, else 0."""
    walk = replay(point.network.trace(point.statistic, split), point.policy)
    return np.asarray(walk.predictions == split.labels, dtype=np.float64)


def random_halves(split: SplitLogits) -> tuple[SplitLogits, SplitLogits]:
    """Two random halves of the images of a split, the same ones for every network."""
    order, half = betting_order(len(split.labels)), len(split.labels) // 2
    first, second = (np.sort(part) for part in (order[:half], order[half:]))
    one, other = (replace(split, logits=split.logits[part], labels=split.labels[part]) for part in (first, second))
    return one, other
