"""The interface of inference: a network as parts to call one after the other, at a precision, on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from study.networks.cascade import running_answers
from study.networks.heads import Shape
from study.networks.precisions import Int8Execution, Precision
from study.networks.registry import State


class InferenceNetwork(Protocol):
    """A network that runs exit by exit, as a ``MultiExitNetwork`` in eval mode does."""

    @property
    def segments(self) -> Sequence[Callable[[State], State]]:
        """E parts, ``segment(state) -> state``; the first part gets ``(images,)``."""

    @property
    def heads(self) -> Callable[[Tensor, int], Tensor]:
        """``heads(feature, exit) -> logits [B, C]``, exits from 1."""

    @property
    def classifier(self) -> Callable[[State], Tensor]:
        """The part behind the last exit: ``classifier(state) -> logits [B, C]``."""

    @property
    def exit_count(self) -> int:
        """E."""

    @property
    def device(self) -> torch.device:
        """The device on which the images must be."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RunnableNetwork:
    """A network prepared for inference at one precision: from fp32 images to fp32 logits."""

    segments: tuple[Callable[[State], State], ...]
    exit_heads: tuple[Callable[[Tensor], Tensor], ...]
    """E parts, ``head(feature) -> logits [B, C]``."""
    classifier: Callable[[State], Tensor]
    classes: int
    input_shape: Shape
    device: torch.device
    precision: Precision
    int8_execution: Int8Execution | None = None
    """How int8 is computed; None if no part is int8."""
    compiled: bool = False
    apart: RunnableNetwork | None = None
    """Of a cascade, whose segments run their heads: the network with segments and heads apart."""

    @property
    def exit_count(self) -> int:
        """E."""
        return len(self.segments)

    def heads(self, feature: Tensor, exit: int) -> Tensor:
        """Logits ``[B, C]`` of exit ``exit`` (from 1) for its feature map ``[B, channels, H, W]``."""
        return self.exit_heads[exit - 1](feature)


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode, and afterwards back into its mode."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def all_logits(network: InferenceNetwork, images: Tensor) -> Tensor:
    """Logits ``[B, E+1, C]`` of all exits and the classifier for images ``[B, channels, height, width]``.

    The heads of a :class:`RunnableNetwork` give the running answers of a cascade by themselves.
    """
    state: State = (images,)
    logits = []
    for exit, segment in enumerate(network.segments, start=1):
        state = segment(state)
        logits.append(network.heads(state[0], exit))
    exits = running_answers(torch.stack(logits), getattr(network, "cascade", 0.0))
    return torch.cat([exits.transpose(0, 1), network.classifier(state)[:, None]], dim=1)
