"""Memory of a network at inference: weights of the kept parts, and the largest feature maps alive at once."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from study.arrays import Floats
from study.networks.precisions import FORMATS, NumberFormat, Precision
from study.policies.base import Policy

if TYPE_CHECKING:
    from study.costs.flops import NetworkWork, Work


@dataclass(frozen=True, kw_only=True, eq=False)
class Memory:
    """Bytes of every part of a network with E exits."""

    segment_weights: Floats
    """``[E+1]``; the last entry is the classifier's."""
    head_weights: tuple[Mapping[str, float], ...]
    """E entries: bytes of each tensor, by name. Heads that share a tensor share its name."""
    segment_maps: Floats
    """``[E+1]``: bytes of the maps alive at once, at most, while a batch runs through the part."""
    head_maps: Floats
    """``[E]``."""
    cascaded: bool = False
    """Whether an exit needs the heads of all exits before it."""

    @classmethod
    def of(cls, work: NetworkWork, precision: Precision, batch_size: int) -> Memory:
        """Compute bytes from counted elements, for a precision and batch size."""
        formats = FORMATS[precision]
        return cls(
            segment_weights=np.array([part.parameters * formats.backbone.weight_bytes for part in work.segments]),
            head_weights=tuple(
                {name: size * formats.heads.weight_bytes for name, size in head.parameter_sizes.items()}
                for head in work.heads
            ),
            segment_maps=_maps(work.segments, formats.backbone) * batch_size,
            head_maps=_maps(work.heads, formats.heads) * batch_size,
            cascaded=work.cascaded,
        )

    def of_policy(self, policy: Policy) -> float:
        """Bytes of a program that keeps only the parts which a walk of the policy may run."""
        exits = len(self.head_weights)
        depth, tried = policy.depth(exits), policy.heads_it_may_run(exits)
        if self.cascaded and tried.any():
            tried = np.arange(exits) < depth
        shared = {
            name: size
            for head, kept in zip(self.head_weights, tried, strict=True)
            if kept
            for name, size in head.items()
        }
        maps = max(self.segment_maps[:depth].max(), self.head_maps[tried].max(initial=0.0))
        return float(self.segment_weights[:depth].sum() + sum(shared.values()) + maps)

    def of_cuts(self) -> Floats:
        """``[E+1]``: bytes of the network cut at each exit; the last entry is the network without exits."""
        heads = tensors_at_cuts(self.head_weights, cascaded=self.cascaded)
        weights = self.segment_weights.cumsum() + np.append(heads, 0.0)
        return np.asarray(weights + self.maps_of_cuts())

    def maps_of_cuts(self) -> Floats:
        """``[E+1]``: as :meth:`of_cuts`, the feature maps alone."""
        maps: Floats = np.maximum(np.maximum.accumulate(self.segment_maps), np.append(self.head_maps, 0.0))
        return maps


def tensors_at_cuts(heads: Sequence[Mapping[str, float]], *, cascaded: bool) -> Floats:
    """``[E]``: the size of all tensors of the heads that a network cut at each exit has, from sizes by name."""
    kept = [dict(head) for head in heads]
    if cascaded:
        kept = list(accumulate(kept, operator.or_))
    return np.array([sum(head.values()) for head in kept])


def _maps(parts: tuple[Work, ...], number: NumberFormat) -> Floats:
    return np.array([part.peak_activation_elements * number.map_bytes for part in parts])
