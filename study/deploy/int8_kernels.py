"""Described parts in int8 by oneDNN's integer kernels.

A description computes quantize, dequantize, operation, quantize. Here each convolution and linear layer whose operands
are dequantized integers becomes one integer operation, with the addition, the ReLU and the quantization behind it. The
operations are those to which torch's compiler lowers the same graph (``torch._inductor.fx_passes.quantization``); built
from the description they need neither an export nor the compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from study.deploy.torch_parts import Part, Reference, Step

_KERNELS = ("conv2d.default", "linear.default")
_WHOLE = (0, 255, torch.uint8)
"""The range in which a kernel rounds its result; activations of 7 bits are rounded behind it."""


@dataclass(frozen=True)
class Call:
    """A step of a lowered part: ``result`` is what ``function`` gives for the arguments of a :class:`Step`."""

    result: str
    function: Callable[..., Any]
    arguments: list[Any]


def rounded(x: Tensor, scale: float, zero: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    """The integers of a tensor, as :func:`study.deploy.torch_parts.quantize`, in less memory."""
    return (x * (1.0 / scale)).round_().add_(zero).clamp_(low, high).to(dtype)


def _convolved_onto(*arguments: Any) -> Any:
    """The kernel that adds onto its argument 6, which must lie channels last."""
    before, onto, behind = arguments[:6], arguments[6], arguments[7:]
    onto = onto.contiguous(memory_format=torch.channels_last)
    return torch.ops.onednn.qconv2d_pointwise.binary(*before, onto, *behind)


def integer_calls(part: Part, *, in_place: bool = True) -> dict[str, Call]:
    """The integer operations of a part: name of the result of the last step that an operation replaces -> operation.

    The steps that it replaces before are read by nothing else.

    Args:
        part: the description.
        in_place: let a convolution add onto a tensor that it overwrites. torch's compiler cannot (2.15: "could not find
            kernel for HigherOrderOperator auto_functionalized_v2"), and makes one kernel of such an addition anyway.
    """
    chains = _Chains(part, in_place)
    found = (chains.call_of(step) for step in part.steps if step.operation in _KERNELS)
    return {call.result: call for call in found if call is not None}


class _Chains:
    """Who gives and who reads each value of a part."""

    def __init__(self, part: Part, in_place: bool) -> None:
        self.in_place = in_place
        self.givers: Mapping[str, Step] = {step.result: step for step in part.steps}
        self.readers: dict[str, list[Step | None]] = {}
        for name in part.outputs:
            self.readers.setdefault(name, []).append(None)
        for step in part.steps:
            for one in _references([step.arguments, list(step.options.values())]):
                self.readers.setdefault(one, []).append(step)

    def call_of(self, step: Step) -> Call | None:
        """The integer operation of a convolution or linear layer; None where its operands are no integers."""
        source, weight = (self._giver(one) for one in step.arguments[:2])
        if source is None or source.operation != "dequantize_per_tensor.default":
            return None
        if weight is None or weight.operation != "dequantize_per_channel.default":
            return None
        integers, scale, zero, *_, kind = source.arguments
        numbers, scales, zeros, axis = weight.arguments[:4]
        if kind is not torch.uint8 or axis != 0 or not _of_channels(numbers, scales, zeros):
            return None
        bias, *geometry = [*step.arguments[2:], *[None] * 5][:5]
        convolves = step.operation == "conv2d.default"
        strides = [geometry[0] or [1, 1], geometry[1] or [0, 0], geometry[2] or [1, 1], geometry[3] or 1]
        if convolves:
            packed = torch.ops.onednn.qconv_prepack(numbers, scales, scale, zero, *strides, None)
        else:
            packed = torch.ops.onednn.qlinear_prepack(numbers, None)
        operands = [integers, scale, zero, packed, scales, zeros]
        place = strides if convolves else []

        last, accumulated = self._added(step) if convolves and self.in_place else (step, None)
        last, post = self._followed(last, "relu.default", "relu", "none")
        if accumulated is not None:
            result = [1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, post, [], ""]
            arguments = [*operands, accumulated, bias, *place, *result]
            return Call(last.result, _convolved_onto, arguments)
        rounding = self._only_reader(last)
        if rounding and rounding.operation == "quantize_per_tensor.default" and tuple(rounding.arguments[3:]) == _WHOLE:
            last, result = rounding, [*rounding.arguments[1:3], torch.uint8]
        else:
            result = [1.0, 0, torch.float32]
        onednn = torch.ops.onednn
        function = onednn.qconv_pointwise.default if convolves else onednn.qlinear_pointwise.default
        return Call(last.result, function, [*operands, bias, *place, *result, post, [], ""])

    def _added(self, step: Step) -> tuple[Step, Any]:
        """The addition behind a step and the tensor that it adds, which the kernel overwrites; or the step itself."""
        addition = self._only_reader(step)
        if addition is None or addition.operation != "add.Tensor" or addition.options or len(addition.arguments) != 2:
            return step, None
        one, other = addition.arguments
        accumulated = other if one == step.result else one
        giver = self._giver(accumulated)
        if giver is None or giver.operation != "dequantize_per_tensor.default" or self._only_reader(giver) is None:
            return step, None
        return addition, accumulated

    def _followed(self, step: Step, operation: str, name: str, otherwise: str) -> tuple[Step, str]:
        reader = self._only_reader(step)
        return (reader, name) if reader is not None and reader.operation == operation else (step, otherwise)

    def _only_reader(self, step: Step) -> Step | None:
        readers = self.readers.get(step.result, [])
        return readers[0] if len(readers) == 1 else None

    def _giver(self, argument: Any) -> Step | None:
        return self.givers.get(argument) if isinstance(argument, Reference) else None


def _of_channels(numbers: Any, scales: Any, zeros: Any) -> bool:
    """Whether weights are int8 with a scale for each channel and without offsets; the kernels do not check it."""
    if not all(isinstance(one, Tensor) for one in (numbers, scales, zeros)):
        return False
    kinds = (numbers.dtype, scales.dtype) == (torch.int8, torch.float32)
    return kinds and scales.shape == zeros.shape == numbers.shape[:1] and not bool(zeros.any())


def _references(arguments: list[Any]) -> list[Reference]:
    found = []
    for one in arguments:
        found += [one] if isinstance(one, Reference) else _references(one) if isinstance(one, list) else []
    return found
