"""Which tensors a mode trains, and the optimizer that moves them."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.settings import Mode
from study.errors import UserError
from study.networks.multi_exit import MultiExitNetwork, output_layer
from study.training.settings import TrainingSettings

_TRAINED: dict[Mode, tuple[str, ...]] = {
    "normal": ("backbone.",),
    "original": ("backbone.",),
    "exits": ("heads.",),
    "joint": ("backbone.", "heads."),
}
"""Prefixes of the names of the tensors that a mode trains."""


def frozen_segments(network: MultiExitNetwork, settings: TrainingSettings) -> tuple[nn.Module, ...]:
    """The segments that ``frozen_to`` keeps as they are.

    Raises:
        UserError: the network has no such exit.
    """
    if settings.frozen_to is None:
        return ()
    places = [point.name for point in network.exits]
    if settings.frozen_to not in places:
        raise UserError(f"frozen_to: there is no exit at {settings.frozen_to!r}: known are {', '.join(places)}")
    return tuple(network.segments[: places.index(settings.frozen_to) + 1])


def trainable_parameters(network: MultiExitNetwork, settings: TrainingSettings) -> list[nn.Parameter]:
    """Return the parameters that a training run trains, and freeze all others."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(_TRAINED[settings.mode]))
    for segment in frozen_segments(network, settings):
        segment.requires_grad_(requires_grad=False)
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def moving_tensors(network: MultiExitNetwork, settings: TrainingSettings) -> dict[str, Tensor]:
    """Parameters and batch-norm statistics that a training run moves, by name, without the counters of batches."""
    named = itertools.chain(network.named_parameters(), network.named_buffers())
    frozen = {
        id(value)
        for segment in frozen_segments(network, settings)
        for value in itertools.chain(segment.parameters(), segment.buffers())
    }
    trained = _TRAINED[settings.mode]
    return {
        name: value
        for name, value in named
        if name.startswith(trained) and value.is_floating_point() and id(value) not in frozen
    }


def make_optimizer(network: MultiExitNetwork, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Make the optimizer. Weight decay applies to matrices and kernels, not to biases, scales and batch norm.

    With ``backbone_rate``, groups of their own hold the parameters that learn at a share ``scale`` of the rate: all but
    those of the heads and of the output layer.
    """
    parameters = trainable_parameters(network, settings)
    own = {id(parameter) for parameter in network.heads.parameters()}
    last = {f"backbone.{name}" for name in output_layer(network)}
    own |= {id(parameter) for name, parameter in network.named_parameters() if name in last}
    slow = [one for one in parameters if settings.backbone_rate != 1 and id(one) not in own]
    kept = {id(one) for one in slow}
    groups: list[dict[str, Any]] = []
    for some, scale in (([one for one in parameters if id(one) not in kept], 1.0), (slow, settings.backbone_rate)):
        if scale == 1 or some:
            groups += [
                {"params": [p for p in some if p.ndim > 1], "weight_decay": settings.weight_decay, "scale": scale},
                {"params": [p for p in some if p.ndim <= 1], "weight_decay": 0.0, "scale": scale},
            ]
    rate = settings.learning_rate
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, nesterov=settings.momentum > 0)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=rate)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of an optimizer's state, by ``<parameter index>.<name>``."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value
        for index, values in state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load the tensors of :func:`optimizer_tensors`."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        if value.ndim and value.shape == parameter.shape:  # a file has no memory layout; a step is fast in one layout
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
