"""FLOPs, weights and activations of every segment and head, counted on one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from study.networks.multi_exit import MultiExitNetwork
from study.policies import Floats


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one image asks of one part of a network."""

    flops: float
    """2 x multiply-accumulates of convolutions and linear layers."""
    weight_elements: float
    """Parameters and buffers read."""
    activation_elements: float
    """Elements of the part's input and output."""


@dataclass(frozen=True)
class NetworkWork:
    """The work of all parts of a network with E exits."""

    segments: tuple[Work, ...]
    """E + 1 entries, the classifier last."""
    heads: tuple[Work, ...]
    """E entries."""
    engine_step: Work
    """One smoothing step of the prediction engine."""

    @property
    def segment_flops(self) -> Floats:
        """``[E+1]``."""
        return np.array([work.flops for work in self.segments])

    @property
    def head_flops(self) -> Floats:
        """``[E]``."""
        return np.array([work.flops for work in self.heads])


def count_work(network: MultiExitNetwork) -> NetworkWork:
    """Count by running one zero image through each part (``torch.utils.flop_counter``).

    Element-wise operations, pooling and normalisation count no FLOPs, as is usual. The engine's smoothing step adds
    three neighbours for each of C classes: 2 C additions.
    """
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    segments, heads = [], []
    state: tuple[Tensor, ...] = (torch.zeros(1, *network.input_shape, device=device),)
    with torch.no_grad():
        for exit, segment in enumerate(network.segments, start=1):
            work, state = _measure(segment, state, state)
            segments.append(work)
            work, _ = _measure(network.heads, state[:1], state[0], exit)
            heads.append(work)
        work, _ = _measure(network.classifier, state, state)
        segments.append(work)
    network.train(was_training)
    step = Work(flops=2.0 * network.classes, weight_elements=0.0, activation_elements=2.0 * network.classes)
    return NetworkWork(tuple(segments), tuple(heads), step)


def _measure(part: nn.Module, read: tuple[Tensor, ...], *arguments: object) -> tuple[Work, tuple[Tensor, ...]]:
    """Run a part; returns its work and its output as a tuple. Only the modules that ran are charged for weights."""
    ran: list[nn.Module] = []
    hooks = [module.register_forward_hook(lambda module, *_: ran.append(module)) for module in part.modules()]
    try:
        with FlopCounterMode(display=False) as counter:
            output = part(*arguments)
    finally:
        for hook in hooks:
            hook.remove()
    written: tuple[Tensor, ...] = output if isinstance(output, tuple) else (output,)
    # A tensor that is only carried along stays where it is.
    new = [tensor for tensor in written if all(tensor is not old for old in read)]
    tensors = [t for module in ran for t in [*module.parameters(recurse=False), *module.buffers(recurse=False)]]
    weights = {id(tensor): tensor.numel() for tensor in tensors if tensor.is_floating_point()}  # no batch counters
    work = Work(
        flops=float(counter.get_total_flops()),
        weight_elements=float(sum(weights.values())),
        activation_elements=float(sum(tensor.numel() for tensor in [*read, *new])),
    )
    return work, written
