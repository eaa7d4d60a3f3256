"""The parts of an exported network, run by torch alone. An export holds a copy of this file beside ``run.py``.

``graphs.json`` describes each part as steps. A step is ``[result, operation, arguments, options]``. An argument is a
number, a truth value, null, a list, ``{"value": result of an earlier step}``, ``{"tensor": name in
weights.safetensors}`` or ``{"dtype": name}``. Only the operations below are known: a description can compute, and can
do nothing else.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_ATEN = """adaptive_avg_pool2d.default add.Tensor avg_pool2d.default batch_norm.default bmm.default
cat.default clamp.default clamp_min.default conv2d.default div.Tensor elu.default expand.default
expand_as.default flatten.using_ints gelu.default group_norm.default hardsigmoid.default hardswish.default
hardtanh.default layer_norm.default leaky_relu.default linalg_vector_norm.default linear.default
matmul.default max_pool2d.default mean.dim mul.Tensor pad.default permute.default relu.default relu6.default
reshape.default roll.default scaled_dot_product_attention.default select.int sigmoid.default silu.default
slice.Tensor softmax.int squeeze.dim sub.Tensor sum.dim_IntList tanh.default to.dtype transpose.int
unflatten.int unsqueeze.default"""
_DTYPES = ("float32", "bfloat16", "uint8", "int8")


def quantize(x: Tensor, scale: float, zero: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    """The integers of a tensor: x / scale + zero, rounded to even and cut to low..high."""
    return (x * (1.0 / scale)).round().add(zero).clamp(low, high).to(dtype)


def dequantize(x: Tensor, scale: float, zero: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    """The numbers that the integers of :func:`quantize` stand for."""
    return (x.float() - zero) * scale


def dequantize_channels(
    x: Tensor, scales: Tensor, zeros: Tensor, axis: int, low: int, high: int, dtype: torch.dtype
) -> Tensor:
    """:func:`dequantize` with a scale for each channel along an axis."""
    shape = [-1 if place == axis else 1 for place in range(x.dim())]
    return (x.float() - zeros.reshape(shape).float()) * scales.reshape(shape)


def _aten(name: str) -> Callable[..., Any]:
    packet, _, overload = name.partition(".")
    found: Callable[..., Any] = getattr(getattr(torch.ops.aten, packet), overload)
    return found


OPERATIONS: Mapping[str, Callable[..., Any]] = {
    **{name: _aten(name) for name in _ATEN.split()},
    "view.default": _aten("reshape.default"),  # kernels of two machines leave two memory layouts
    "sym_size.int": lambda x, axis: x.shape[axis],  # the number of images in a batch
    "mul.int": operator.mul,
    "quantize_per_tensor.default": quantize,
    "dequantize_per_tensor.default": dequantize,
    "dequantize_per_channel.default": dequantize_channels,
}
"""Name in a description -> function."""


class Reference(str):
    """The name of an earlier result in the arguments of a step."""

    __slots__ = ()


class Step:
    """One operation with its arguments; a :class:`Reference` stands for an earlier result.

    Raises:
        ValueError: the step is not as the module says.
    """

    def __init__(self, raw: Any, known: set[str], tensors: Mapping[str, Tensor]) -> None:
        if not (isinstance(raw, list) and len(raw) == 4 and isinstance(raw[0], str) and isinstance(raw[2], list)):
            raise ValueError("a step is no list of result, operation, arguments and options")
        self.result, self.operation, arguments, options = raw
        if not isinstance(self.operation, str) or self.operation not in OPERATIONS:
            raise ValueError(f"operation {str(self.operation)[:60]!r} is unknown")
        if not isinstance(options, dict) or not all(name.isidentifier() for name in options):
            raise ValueError(f"the options of {self.operation} are no mapping of names")
        self.arguments = [_argument(one, known, tensors) for one in arguments]
        self.options = {name: _argument(one, known, tensors) for name, one in options.items()}


def _argument(raw: Any, known: set[str], tensors: Mapping[str, Tensor]) -> Any:
    if raw is None or isinstance(raw, bool | int | float):
        return raw
    if isinstance(raw, list):
        return [_argument(one, known, tensors) for one in raw]
    if isinstance(raw, dict) and len(raw) == 1:
        ((kind, name),) = raw.items()
        if kind == "value" and isinstance(name, str) and name in known:
            return Reference(name)
        if kind == "tensor" and isinstance(name, str) and name in tensors:
            return tensors[name]
        if kind == "dtype" and name in _DTYPES:
            return getattr(torch, name)
    raise ValueError(f"argument {str(raw)[:60]!r} is none")


class Part(torch.nn.Module):
    """A part that runs its description step by step: from its input tensors to a tuple of its results.

    Args:
        graph: the description, of ``graphs.json``.
        tensors: of ``weights.safetensors``.

    Raises:
        ValueError: the description is not as the module says, or names a tensor that is not there.
    """

    def __init__(self, graph: Any, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        if not isinstance(graph, dict) or set(graph) != {"inputs", "steps", "outputs"}:
            raise ValueError("a part has no inputs, steps and outputs")
        self.inputs, self.outputs = _names(graph["inputs"]), _names(graph["outputs"])
        known, self.steps = set(self.inputs), []
        if not isinstance(graph["steps"], list):
            raise ValueError("the steps of a part are no list")
        for raw in graph["steps"]:
            step = Step(raw, known, tensors)
            self.steps.append(step)
            known.add(step.result)
        if missing := set(self.outputs) - known:
            raise ValueError(f"no step gives the output {sorted(missing)[0][:60]!r}")

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run all steps."""
        values: dict[str, Any] = dict(zip(self.inputs, inputs, strict=True))
        for step in self.steps:
            values[step.result] = run_step(step, values)
        return tuple(values[name] for name in self.outputs)


def run_step(step: Step, values: Mapping[str, Any]) -> Any:
    """The result of one step, from the earlier results by name."""
    arguments = [_filled(one, values) for one in step.arguments]
    options = {name: _filled(one, values) for name, one in step.options.items()}
    return OPERATIONS[step.operation](*arguments, **options)


def _names(raw: Any) -> Sequence[str]:
    if not (isinstance(raw, list) and raw and all(isinstance(one, str) for one in raw)):
        raise ValueError("the inputs or outputs of a part are no list of names")
    return raw


def _filled(argument: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(argument, Reference):
        return values[argument]
    return [_filled(one, values) for one in argument] if isinstance(argument, list) else argument
