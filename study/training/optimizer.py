"""Which tensors a mode trains, and the optimizer that moves them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.settings import Mode, Optimizer
from study.errors import UserError
from study.networks.multi_exit import MultiExitNetwork, output_layer
from study.training.muon import Muon
from study.training.settings import TrainingSettings

_TRAINED: dict[Mode, tuple[str, ...]] = {
    "normal": ("backbone.",),
    "original": ("backbone.",),
    "exits": ("heads.",),
    "joint": ("backbone.", "heads."),
}
"""Prefixes of the names of the tensors that a mode trains."""
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


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
    if settings.norm_scales == "fixed":
        for layer in network.modules():
            if isinstance(layer, _BATCH_NORMS) and layer.weight is not None:
                layer.weight.requires_grad = False
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
    """Make the optimizer, with a group for each kind of parameter (:func:`parameter_kinds`).

    Weight decay applies to matrices and kernels, not to biases, scales and batch norm. A group learns at a share
    ``scale`` of the learning rate: with ``backbone_rate`` also all parameters but those of the heads and of the output
    layer, in groups of their own.
    """
    parameters = trainable_parameters(network, settings)
    own = {id(parameter) for parameter in network.heads.parameters()}
    last = {f"backbone.{name}" for name in output_layer(network)}
    own |= {id(parameter) for name, parameter in network.named_parameters() if name in last}
    slow = {id(one) for one in parameters if settings.backbone_rate != 1 and id(one) not in own}
    kinds = parameter_kinds(network, settings)
    groups: list[dict[str, Any]] = []
    for part, factor in ((False, 1.0), (True, settings.backbone_rate)):
        for name, kind in KINDS.items():
            members = [one for one in parameters if kinds[id(one)] == name and (id(one) in slow) is part]
            if members or not groups:  # the first group tells the learning rate
                groups.append(
                    {
                        "params": members,
                        "weight_decay": settings.weight_decay if kind.decays else 0.0,
                        "scale": factor * kind.rate(settings),
                        "orthogonal": kind.orthogonal,
                    }
                )
    return OPTIMIZERS[settings.optimizer](groups, settings)


@dataclass(frozen=True, kw_only=True)
class ParameterKind:
    """How the parameters of a kind learn."""

    decays: bool
    rate: Callable[[TrainingSettings], float] = lambda settings: 1.0
    """A factor on the learning rate."""
    orthogonal: bool = False
    """Whether Muon makes the steps orthogonal."""


KINDS: Mapping[str, ParameterKind] = {
    "matrix": ParameterKind(decays=True),
    "vector": ParameterKind(decays=False),
    "kernel": ParameterKind(decays=True, rate=lambda settings: settings.kernel_rate, orthogonal=True),
    "norm_bias": ParameterKind(decays=False, rate=lambda settings: settings.bias_rate),
}
"""In the order of their groups."""


def parameter_kinds(network: MultiExitNetwork, settings: TrainingSettings) -> dict[int, str]:
    """The kind of each parameter, by ``id``: a key of ``KINDS``.

    ``kernel`` are the weights of convolutions without groups under Muon, ``norm_bias`` the biases of batch norm where
    they have a rate of their own (Jordan, arXiv 2404.00498); else a parameter is a matrix or a vector.
    """
    kinds = {id(one): "matrix" if one.ndim > 1 else "vector" for one in network.parameters()}
    for layer in network.modules():
        if settings.optimizer == "muon" and isinstance(layer, nn.Conv2d) and layer.groups == 1:
            kinds[id(layer.weight)] = "kernel"
        if settings.bias_rate != 1 and isinstance(layer, _BATCH_NORMS) and layer.bias is not None:
            kinds[id(layer.bias)] = "norm_bias"
    return kinds


def _sgd(groups: list[dict[str, Any]], settings: TrainingSettings) -> torch.optim.Optimizer:
    momentum = settings.momentum
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=momentum, nesterov=momentum > 0)


OPTIMIZERS: Mapping[Optimizer, Callable[[list[dict[str, Any]], TrainingSettings], torch.optim.Optimizer]] = {
    "adam": lambda groups, settings: torch.optim.Adam(groups, lr=settings.learning_rate),
    "adamw": lambda groups, settings: torch.optim.AdamW(groups, lr=settings.learning_rate),
    "sgd": _sgd,
    "muon": lambda groups, settings: Muon(groups, settings.learning_rate, settings.momentum),
}


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
