"""Which tensors a mode trains, and the optimizer that moves them."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.settings import Mode
from study.networks.multi_exit import MultiExitNetwork
from study.training.settings import TrainingSettings

_TRAINED: dict[Mode, tuple[str, ...]] = {
    "normal": ("backbone.",),
    "original": ("backbone.",),
    "exits": ("heads.",),
    "joint": ("backbone.", "heads."),
}
"""Prefixes of the names of the tensors that a mode trains."""


def trainable_parameters(network: MultiExitNetwork, mode: Mode) -> list[nn.Parameter]:
    """Return the parameters that a mode trains, and freeze all others."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(_TRAINED[mode]))
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def moving_tensors(network: MultiExitNetwork, mode: Mode) -> dict[str, Tensor]:
    """Parameters and batch-norm statistics that a mode trains, by name, without the counters of batches."""
    named = itertools.chain(network.named_parameters(), network.named_buffers())
    return {name: value for name, value in named if name.startswith(_TRAINED[mode]) and value.is_floating_point()}


def make_optimizer(parameters: list[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    """Make the optimizer. Weight decay applies to matrices and kernels, not to biases, scales and batch norm."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
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
