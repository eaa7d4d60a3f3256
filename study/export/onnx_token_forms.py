"""How the operations of networks of tokens read in ONNX: shapes, attention and normalisation of the last axes.

A size that depends on the number of images is computed in the graph; all other sizes are constants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from study.deploy.torch_parts import Reference, Step
from study.errors import UserError
from study.export.onnx_writer import Form, OnnxWriter, rest


def _whole(values: Sequence[int]) -> Any:
    return np.asarray(values, dtype=np.int64)


def _shape(to: OnnxWriter, sizes: Sequence[Any], result: str) -> str:
    """A shape whose sizes are numbers or results of earlier steps."""
    if not any(isinstance(one, Reference) for one in sizes):
        return to.constant(_whole(sizes))
    pieces = [str(one) if isinstance(one, Reference) else to.constant(_whole([one])) for one in sizes]
    return to.node("Concat", pieces, f"{result}_shape", axis=0)


def _reshaped(to: OnnxWriter, step: Step, sizes: Sequence[Any]) -> None:
    to.node("Reshape", [to.input(step.arguments[0]), _shape(to, sizes, step.result)], step.result)


def _reshape(to: OnnxWriter, step: Step) -> None:
    _reshaped(to, step, step.arguments[1])


def _flatten(to: OnnxWriter, step: Step) -> None:
    start, end = rest(step, 0, -1)
    shape = to.values[step.arguments[0]].shape
    behind = shape[end % len(shape) + 1 :]
    _reshaped(to, step, [*[0] * (start % len(shape)), -1, *behind])  # ONNX reads 0 as the size of the source


def _unflatten(to: OnnxWriter, step: Step) -> None:
    axis, sizes = step.arguments[1:]
    shape = to.values[step.arguments[0]].shape
    _reshaped(to, step, [*[0] * (axis % len(shape)), *sizes, *shape[axis % len(shape) + 1 :]])


def _size(to: OnnxWriter, step: Step) -> None:
    axis = step.arguments[1]
    to.node("Shape", [to.input(step.arguments[0])], step.result, start=axis, end=axis + 1)


def _multiplied_size(to: OnnxWriter, step: Step) -> None:
    factors = [str(one) if isinstance(one, Reference) else to.constant(_whole([one])) for one in step.arguments]
    to.node("Mul", factors, step.result)


def _expand(to: OnnxWriter, step: Step) -> None:
    sizes = [1 if one == -1 else one for one in step.arguments[1]]
    to.node("Expand", [to.input(step.arguments[0]), _shape(to, sizes, step.result)], step.result)


def _expand_as(to: OnnxWriter, step: Step) -> None:
    source, other = (to.input(one) for one in step.arguments)
    to.node("Expand", [source, to.node("Shape", [other], f"{step.result}_shape")], step.result)


def _permute(to: OnnxWriter, step: Step) -> None:
    order = [axis % len(step.arguments[1]) for axis in step.arguments[1]]
    to.node("Transpose", [to.input(step.arguments[0])], step.result, perm=order)


def _transpose(to: OnnxWriter, step: Step) -> None:
    order = list(range(to.values[step.result].dim()))
    one, other = step.arguments[1:]
    order[one], order[other] = order[other], order[one]
    to.node("Transpose", [to.input(step.arguments[0])], step.result, perm=order)


def _with_axis(kind: str) -> Form:
    """A node whose second input is one axis."""

    def write(to: OnnxWriter, step: Step) -> None:
        to.node(kind, [to.input(step.arguments[0]), to.constant(_whole([step.arguments[1]]))], step.result)

    return write


def _select(to: OnnxWriter, step: Step) -> None:
    source, axis, number = step.arguments
    to.node("Gather", [to.input(source), to.constant(np.int64(number))], step.result, axis=axis)


def _cut(to: OnnxWriter, source: str, axis: int, start: int, end: int, result: str, stride: int = 1) -> str:
    numbers = [to.constant(_whole([one])) for one in (start, end, axis, stride)]
    return to.node("Slice", [source, *numbers], result)


def _slice(to: OnnxWriter, step: Step) -> None:
    axis, start, end, stride = rest(step, 0, None, None, 1)
    last = np.iinfo(np.int64).max
    _cut(to, to.input(step.arguments[0]), axis, start or 0, last if end is None else end, step.result, stride)


def _roll(to: OnnxWriter, step: Step) -> None:
    shifts, axes = rest(step, [], [])
    source = to.input(step.arguments[0])
    for number, (shift, axis) in enumerate(zip(shifts, axes, strict=True), start=1):
        size = to.values[step.result].shape[axis]
        at = -shift % size
        name = f"{step.result}_rolled_{axis}"
        halves = [_cut(to, source, axis, at, size, f"{name}_start"), _cut(to, source, axis, 0, at, f"{name}_end")]
        source = to.node("Concat", halves, step.result if number == len(axes) else name, axis=axis)


def _pad(to: OnnxWriter, step: Step) -> None:
    widths = step.arguments[1]
    free = [0] * (to.values[step.result].dim() - len(widths) // 2)
    pads = [*free, *widths[-2::-2], *free, *widths[::-2]]  # torch begins with the last axis
    inputs = [to.input(step.arguments[0]), to.constant(_whole(pads))]
    if (value := rest(step, None, "constant", None)[2]) is not None:
        inputs.append(to.input(value))
    to.node("Pad", inputs, step.result)


def _layer_norm(to: OnnxWriter, step: Step) -> None:
    shape, weight, bias, epsilon = rest(step, None, None, None, 1e-5)[:4]
    scale = to.constant(np.ones(shape, dtype=np.float32)) if weight is None else to.input(weight)
    inputs = [to.input(step.arguments[0]), scale, *([] if bias is None else [to.input(bias)])]
    to.node("LayerNormalization", inputs, step.result, axis=-len(shape), epsilon=epsilon)


def _softmax(to: OnnxWriter, step: Step) -> None:
    to.node("Softmax", [to.input(step.arguments[0])], step.result, axis=step.arguments[1])


def _norm(to: OnnxWriter, step: Step) -> None:
    order, axes, keep = rest(step, 2, None, False)[:3]
    if order != 2 or axes is None:
        raise UserError(f"--format onnx: {to.name} computes a norm that is not Euclidean: take --format torch")
    inputs = [to.input(step.arguments[0]), to.constant(_whole(axes))]
    to.node("ReduceL2", inputs, step.result, keepdims=int(keep))


def _attention(to: OnnxWriter, step: Step) -> None:
    query = step.arguments[0]
    key, value, mask, _, causal = rest(step, None, None, None, 0.0, False)
    if causal or (mask is not None and not _of(to, mask).is_floating_point()):
        raise UserError(
            f"--format onnx: {to.name} has an attention that is masked by truth values: take --format torch"
        )
    name, keys = step.result, to.values[key]
    order = [*range(keys.dim() - 2), keys.dim() - 1, keys.dim() - 2]
    turned = to.node("Transpose", [to.input(key)], f"{name}_keys", perm=order)
    scaled = to.node("Mul", [to.input(query), to.input(1 / math.sqrt(keys.shape[-1]))], f"{name}_queries")
    scores = to.node("MatMul", [scaled, turned], f"{name}_scores")
    if mask is not None:
        scores = to.node("Add", [scores, to.input(mask)], f"{name}_masked")
    weights = to.node("Softmax", [scores], f"{name}_weights", axis=-1)
    to.node("MatMul", [weights, to.input(value)], name)


def _of(to: OnnxWriter, value: Any) -> Tensor:
    """The tensor that an argument stands for."""
    found: Tensor = to.values[value] if isinstance(value, Reference) else value
    return found


def _product(to: OnnxWriter, step: Step) -> None:
    to.node("MatMul", [to.input(one) for one in step.arguments[:2]], step.result)


TOKEN_FORMS: Mapping[str, Form] = {
    "bmm.default": _product,
    "expand.default": _expand,
    "expand_as.default": _expand_as,
    "flatten.using_ints": _flatten,
    "gelu.default": lambda to, step: to.node("Gelu", [to.input(step.arguments[0])], step.result),
    "layer_norm.default": _layer_norm,
    "linalg_vector_norm.default": _norm,
    "matmul.default": _product,
    "mul.int": _multiplied_size,
    "pad.default": _pad,
    "permute.default": _permute,
    "reshape.default": _reshape,
    "roll.default": _roll,
    "scaled_dot_product_attention.default": _attention,
    "select.int": _select,
    "slice.Tensor": _slice,
    "softmax.int": _softmax,
    "squeeze.dim": _with_axis("Squeeze"),
    "sym_size.int": _size,
    "transpose.int": _transpose,
    "unflatten.int": _unflatten,
    "unsqueeze.default": _with_axis("Unsqueeze"),
    "view.default": _reshape,
}
"""Operation -> what writes its nodes."""
