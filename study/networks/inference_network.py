"""Networks as inference sees them: parts to call one after the other, at some precision, on some device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from study.networks.precisions import Int8Execution, Precision
from study.networks.registry import State

if TYPE_CHECKING:
    from study.networks.heads import Shape
    from study.networks.multi_exit import MultiExitNetwork


class InferenceNetwork(Protocol):
    """What running exit by exit needs; a :class:`MultiExitNetwork` in eval mode has it too."""

    @property
    def segments(self) -> Sequence[Callable[[State], State]]:
        """E parts, ``segment(state) -> state``; the first gets ``(images,)``."""
        ...

    @property
    def heads(self) -> Callable[[Tensor, int], Tensor]:
        """``heads(feature, exit) -> logits [B, C]``, exits from 1."""
        ...

    @property
    def classifier(self) -> Callable[[State], Tensor]:
        """What follows the last exit: ``classifier(state) -> logits [B, C]``."""
        ...

    @property
    def exit_count(self) -> int:
        """E."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the images must be."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class RunnableNetwork:
    """A network made ready for inference at one precision. It takes fp32 images and gives fp32 logits."""

    segments: tuple[Callable[[State], State], ...]
    exit_heads: tuple[Callable[[Tensor], Tensor], ...]
    """E parts, ``head(feature) -> logits [B, C]``."""
    classifier: Callable[[State], Tensor]
    classes: int
    input_shape: Shape
    device: torch.device
    precision: Precision
    int8_execution: Int8Execution | None = None
    """How int8 is computed; None where nothing is int8."""
    compiled: bool = False

    @property
    def exit_count(self) -> int:
        """E."""
        return len(self.segments)

    def heads(self, feature: Tensor, exit: int) -> Tensor:
        """Logits ``[B, C]`` of exit ``exit`` (from 1) for its feature map ``[B, channels, H, W]``."""
        return self.exit_heads[exit - 1](feature)


def all_logits(network: InferenceNetwork, images: Tensor) -> Tensor:
    """Logits ``[B, E+1, C]`` of all exits and the classifier for images ``[B, channels, height, width]``."""
    state: State = (images,)
    logits = []
    for exit, segment in enumerate(network.segments, start=1):
        state = segment(state)
        logits.append(network.heads(state[0], exit))
    logits.append(network.classifier(state))
    return torch.stack(logits, dim=1)


def in_fp32(network: MultiExitNetwork) -> RunnableNetwork:
    """The network as it is, in eval mode; parts are shared, not copied."""
    network.eval()

    def head(exit: int) -> Callable[[Tensor], Tensor]:
        return lambda feature: network.heads(feature, exit)

    return RunnableNetwork(
        segments=network.segments,
        exit_heads=tuple(head(exit) for exit in range(1, network.exit_count + 1)),
        classifier=network.classifier,
        classes=network.classes,
        input_shape=network.input_shape,
        device=network.device,
        precision="fp32",
    )
