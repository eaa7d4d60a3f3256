"""How the operations of an exported part read in ONNX; those of networks of tokens alone: the module of that name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from study.deploy.torch_parts import Reference, Step
from study.errors import UserError
from study.export.onnx_token_forms import TOKEN_FORMS
from study.export.onnx_writer import Form, OnnxWriter, rest


def _simple(kind: str, **attributes: Any) -> Form:
    """A node of the step's first argument alone."""
    return lambda to, step: to.node(kind, [to.input(step.arguments[0])], step.result, **attributes)


def _binary(kind: str) -> Form:
    return lambda to, step: to.node(kind, [to.input(one) for one in step.arguments[:2]], step.result)


def _pair(value: Any) -> list[int]:
    return [int(one) for one in (value * 2 if len(value) == 1 else value)] if isinstance(value, list) else [value] * 2


def _convolution(to: OnnxWriter, step: Step) -> None:
    weight, bias, stride, padding, dilation, groups = rest(step, None, None, [1], [0], [1], 1)
    inputs = [to.input(one) for one in (step.arguments[0], weight, bias) if one is not None]
    pads, kernel = _pair(padding), to.values[weight] if isinstance(weight, Reference) else weight
    to.node(
        "Conv",
        inputs,
        step.result,
        kernel_shape=list(kernel.shape[2:]),
        strides=_pair(stride),
        pads=pads * 2,
        dilations=_pair(dilation),
        group=groups,
    )


def _batch_norm(to: OnnxWriter, step: Step) -> None:
    *inputs, _, _, epsilon, _ = step.arguments
    to.node("BatchNormalization", [to.input(one) for one in inputs], step.result, epsilon=epsilon)


def _linear(to: OnnxWriter, step: Step) -> None:
    source, (weight, bias) = step.arguments[0], rest(step, None, None)
    if to.values[source].dim() == 2:
        inputs = [to.input(one) for one in (source, weight, bias) if one is not None]
        to.node("Gemm", inputs, step.result, transB=1)
        return
    if isinstance(weight, Reference):  # int8: the weight is computed from its integers
        turned = to.node("Transpose", [to.input(weight)], f"{step.result}_weight", perm=[1, 0])
    else:
        turned = to.constant(weight.T.numpy())
    product = step.result if bias is None else f"{step.result}_product"
    to.node("MatMul", [to.input(source), turned], product)
    if bias is not None:
        to.node("Add", [product, to.input(bias)], step.result)


def _max_pool(to: OnnxWriter, step: Step) -> None:
    kernel, stride, padding, dilation, ceil = rest(step, None, [], [0], [1], False)
    to.node(
        "MaxPool",
        [to.input(step.arguments[0])],
        step.result,
        kernel_shape=_pair(kernel),
        strides=_pair(stride or kernel),
        pads=_pair(padding) * 2,
        dilations=_pair(dilation),
        ceil_mode=int(ceil),
    )


def _average_pool(to: OnnxWriter, step: Step) -> None:
    kernel, stride, padding, ceil, counts_padding, divisor = rest(step, None, [], [0], False, True, None)
    if divisor is not None:
        raise UserError(f"--format onnx: {to.name} averages with a divisor of its own: take --format torch")
    to.node(
        "AveragePool",
        [to.input(step.arguments[0])],
        step.result,
        kernel_shape=_pair(kernel),
        strides=_pair(stride or kernel),
        pads=_pair(padding) * 2,
        ceil_mode=int(ceil),
        count_include_pad=int(counts_padding),
    )


def _adaptive_pool(to: OnnxWriter, step: Step) -> None:
    source, sides = step.arguments
    before, after = to.values[source].shape[2:], _pair(sides)
    if after == [1, 1]:
        to.node("GlobalAveragePool", [to.input(source)], step.result)
    elif all(large % small == 0 for large, small in zip(before, after, strict=True)):
        kernel = [large // small for large, small in zip(before, after, strict=True)]
        to.node("AveragePool", [to.input(source)], step.result, kernel_shape=kernel, strides=kernel)
    else:  # cells of several sizes: a product with the mean of each cell's rows and columns
        rows, columns = (
            torch.nn.functional.adaptive_avg_pool1d(torch.eye(large)[None], small)[0].T
            for large, small in zip(before, after, strict=True)
        )
        by_rows = to.node("MatMul", [to.constant(rows.numpy()), to.input(source)], f"{step.result}_rows")
        to.node("MatMul", [by_rows, to.constant(columns.T.numpy().copy())], step.result)


def _reduce(kind: str) -> Form:
    def write(to: OnnxWriter, step: Step) -> None:
        axes, keep = rest(step, None, False)[:2]
        inputs = [to.input(step.arguments[0]), to.constant(np.asarray(axes, dtype=np.int64))]
        to.node(kind, inputs, step.result, keepdims=int(keep))

    return write


def _clip(low: float | None, high: float | None) -> Form:
    """Limits that the operation has, or that its arguments give."""

    def write(to: OnnxWriter, step: Step) -> None:
        given = rest(step, low, high)[:2] if step.operation != "relu6.default" else [low, high]
        inputs = [to.input(step.arguments[0]), *("" if one is None else to.input(one) for one in given)]
        to.node("Clip", inputs, step.result)

    return write


def _silu(to: OnnxWriter, step: Step) -> None:
    source = to.input(step.arguments[0])
    gate = to.node("Sigmoid", [source], f"{step.result}_gate")
    to.node("Mul", [source, gate], step.result)


def _leaky(to: OnnxWriter, step: Step) -> None:
    to.node("LeakyRelu", [to.input(step.arguments[0])], step.result, alpha=float(rest(step, 0.01)[0]))


def _concatenate(to: OnnxWriter, step: Step) -> None:
    to.node("Concat", [to.input(one) for one in step.arguments[0]], step.result, axis=rest(step, 0)[0])


def _quantize(to: OnnxWriter, step: Step) -> None:
    scale, zero, low, high, _ = step.arguments[1:]
    source = to.input(step.arguments[0])
    if (low, high) != (0, 255):  # ONNX saturates at the ends of the type alone
        limits = [to.constant(np.float32((end - zero) * scale)) for end in (low, high)]
        source = to.node("Clip", [source, *limits], f"{step.result}_clipped")
    inputs = [source, to.constant(np.float32(scale)), to.constant(np.uint8(zero))]
    to.node("QuantizeLinear", inputs, step.result)


def _dequantize(to: OnnxWriter, step: Step) -> None:
    scale, zero = step.arguments[1:3]
    inputs = [to.input(step.arguments[0]), to.constant(np.float32(scale)), to.constant(np.uint8(zero))]
    to.node("DequantizeLinear", inputs, step.result)


def _dequantize_channels(to: OnnxWriter, step: Step) -> None:
    weight, scales, zeros, axis = step.arguments[:4]
    inputs = [to.input(weight), to.input(scales), to.constant(zeros.numpy().astype(np.int8))]
    to.node("DequantizeLinear", inputs, step.result, axis=axis)


FORMS: Mapping[str, Form] = {
    **TOKEN_FORMS,
    "adaptive_avg_pool2d.default": _adaptive_pool,
    "add.Tensor": _binary("Add"),
    "avg_pool2d.default": _average_pool,
    "batch_norm.default": _batch_norm,
    "cat.default": _concatenate,
    "clamp.default": _clip(None, None),
    "clamp_min.default": _clip(None, None),
    "conv2d.default": _convolution,
    "dequantize_per_channel.default": _dequantize_channels,
    "dequantize_per_tensor.default": _dequantize,
    "div.Tensor": _binary("Div"),
    "hardsigmoid.default": _simple("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hardswish.default": _simple("HardSwish"),
    "hardtanh.default": _clip(-1.0, 1.0),
    "leaky_relu.default": _leaky,
    "linear.default": _linear,
    "max_pool2d.default": _max_pool,
    "mean.dim": _reduce("ReduceMean"),
    "mul.Tensor": _binary("Mul"),
    "quantize_per_tensor.default": _quantize,
    "relu.default": _simple("Relu"),
    "relu6.default": _clip(0.0, 6.0),
    "sigmoid.default": _simple("Sigmoid"),
    "silu.default": _silu,
    "sub.Tensor": _binary("Sub"),
    "sum.dim_IntList": _reduce("ReduceSum"),
    "tanh.default": _simple("Tanh"),
}
"""Operation -> what writes its nodes."""
