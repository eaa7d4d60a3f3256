"""Cascaded exits: each exit adds to the answer of the exit before it.

With the share s (``HeadFields.cascade``) and the logits f of the heads alone, the running answer of exit l is
z_l = f_l + s z_(l-1). In training no gradient flows into z_(l-1): head l learns what the exits before it lack.

A cascade needs all heads up to an exit. In inference each head therefore runs as a part of its segment, which passes
the running answer on; the head of an exit only hands the answer over. A policy may try any exits, as before: the heads
between them are paid for with the segments.

Sources: Yu et al., "Boosted Dynamic Neural Networks", AAAI 2023 (BoostNet); Wołczyk et al., "Zero Time Waste", NeurIPS
2021, where the answer before is an input of the head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from study.networks.inference_network import RunnableNetwork
    from study.networks.registry import State


def running_answers(logits: Tensor, share: float) -> Tensor:
    """``[E, B, C]`` -> ``[E, B, C]``: from the logits of the heads alone to those of the exits, as in training."""
    if not share:
        return logits
    answers = [logits[0]]
    for own in logits[1:]:
        answers.append(own + share * answers[-1].detach())
    return torch.stack(answers)


def cascaded(network: RunnableNetwork, share: float) -> RunnableNetwork:
    """A network whose segments run their heads, and whose states start with the running answer ``[B, C]``."""
    if not share:
        return network
    parts = zip(network.segments, network.exit_heads, strict=True)
    return replace(
        network,
        segments=tuple(_Segment(segment, head, share if exit else None) for exit, (segment, head) in enumerate(parts)),
        exit_heads=tuple(nn.Identity() for _ in network.exit_heads),
        classifier=_Classifier(network.classifier),
        apart=network,
    )


class _Segment(nn.Module):
    """A segment and its head; ``share`` is None in the first one, which gets no answer."""

    def __init__(
        self, segment: Callable[[State], State], head: Callable[[Tensor], Tensor], share: float | None
    ) -> None:
        super().__init__()
        self.segment, self.head, self.share = segment, head, share

    def forward(self, state: State) -> State:
        before = state if self.share is None else state[1:]
        behind = self.segment(before)
        own = self.head(behind[0])
        return (own if self.share is None else own + self.share * state[0], *behind)


class _Classifier(nn.Module):
    def __init__(self, part: Callable[[State], Tensor]) -> None:
        super().__init__()
        self.part = part

    def forward(self, state: State) -> Tensor:
        return self.part(state[1:])
