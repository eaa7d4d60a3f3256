"""Descriptions of parts as ONNX graphs: one for each part and head, for batches of any size.

int8 stays in the form quantize, operation, dequantize, which runtimes turn into integer kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from study.deploy.torch_parts import Part, Reference, Step, run_step
from study.errors import UserError
from study.export.graphs import Description
from study.export.parts import DescribedParts

OPSET, IR_VERSION = 20, 10
"""ONNX Runtime 1.17 and newer read them."""
AGREEMENT = 1e-3
"""Largest difference of a result from torch's that an export accepts, as a share of the largest number; of int8, whose
roundings of a tie may differ, it is 5 %."""


def check_onnx() -> None:
    """Refuse by a UserError an installation without ONNX and its runtime."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--format onnx needs onnx and onnxruntime ({error}): install the extra onnx, as predictive-exit[onnx], or "
            "take --format torch"
        ) from None


def onnx_files(described: DescribedParts, *, precision: str, told: Callable[[str], None]) -> dict[str, bytes]:
    """The files ``part-<number>.onnx`` and ``head-<exit>.onnx``, each held against torch on random images.

    Raises:
        UserError: an operation has no form in ONNX, or a graph computes something else than torch.
    """
    if precision == "bf16":
        raise UserError("--format onnx: ONNX Runtime computes no bf16 on CPUs: export this point with --format torch")
    graphs = {f"part-{number}": graph for number, graph in enumerate(described.parts, start=1)}
    shapes = dict(zip(graphs, described.shapes, strict=True))
    for exit, head in described.heads.items():
        graphs[f"head-{exit}"], shapes[f"head-{exit}"] = head, [described.head_shapes[exit]]
    files = {}
    for name, graph in graphs.items():
        told(f"{name}.onnx")
        files[f"{name}.onnx"] = _held_against_torch(name, graph, described.tensors, shapes[name], precision)
    return files


def _held_against_torch(
    name: str, graph: Description, tensors: Mapping[str, Tensor], shapes: list[list[int]], precision: str
) -> bytes:
    import onnx
    import onnxruntime

    part = Part(graph, tensors)
    model = _Writer(name, part, shapes).write()
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    random = torch.Generator().manual_seed(0)
    for count in (1, 3):
        inputs = [torch.randn(count, *shape, generator=random) for shape in shapes]
        found = session.run(None, {one: each.numpy() for one, each in zip(part.inputs, inputs, strict=True)})
        with torch.no_grad():
            expected = [one.numpy() for one in part(*inputs)]
        for own, other in zip(found, expected, strict=True):
            far = float(np.abs(own - other).max() / max(np.abs(other).max(), 1e-3))
            if not far <= (0.05 if precision.startswith("int8") else AGREEMENT):
                raise UserError(f"export: {name}.onnx gives other results than torch (by {far:.2g})")
    return content


class _Writer:
    """One pass over the steps of a part."""

    def __init__(self, name: str, part: Part, shapes: list[list[int]]) -> None:
        self.name, self.part, self.shapes = name, part, shapes
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.stored: dict[int, str] = {}
        self.values: dict[str, Tensor] = {}

    def write(self) -> Any:
        from onnx import TensorProto, helper

        inputs = [torch.zeros(2, *shape) for shape in self.shapes]
        self.values = dict(zip(self.part.inputs, inputs, strict=True))
        with torch.no_grad():
            for step in self.part.steps:
                self.values[step.result] = run_step(step, self.values)
                self._step(step)
        outputs = []
        for name in self.part.outputs:
            if name in self.part.inputs:  # a tensor that is passed on: an output needs a name of its own
                self._node("Identity", [name], f"{name}_out")
            outputs.append(f"{name}_out" if name in self.part.inputs else name)

        def typed(shown: str, name: str) -> Any:
            shape = ["batch", *self.values[name].shape[1:]]
            return helper.make_tensor_value_info(shown, TensorProto.FLOAT, shape)

        graph = helper.make_graph(
            self.nodes,
            self.name,
            [typed(name, name) for name in self.part.inputs],
            [typed(shown, name) for shown, name in zip(outputs, self.part.outputs, strict=True)],
            list(self.constants.values()),
        )
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, producer_name="predictive-exit", ir_version=IR_VERSION)
        helper.set_model_props(model, {"part": self.name, "layout": "NCHW, batches of any size"})
        return model

    def _node(self, kind: str, inputs: list[str], result: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [result], name=f"{kind}_{len(self.nodes)}", **attributes))
        return result

    def _constant(self, value: Any) -> str:
        from onnx import numpy_helper

        if isinstance(value, Tensor):
            if id(value) not in self.stored:
                self.stored[id(value)] = name = f"weight_{len(self.stored)}"
                self.constants[name] = numpy_helper.from_array(value.contiguous().numpy(), name)
            return self.stored[id(value)]
        array = np.asarray(value)
        name = f"constant_{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def _input(self, value: Any) -> str:
        """The name of an argument: an earlier result, a weight or a number."""
        if isinstance(value, Reference):
            return str(value)
        return self._constant(value if isinstance(value, Tensor) else np.float32(value))

    def _step(self, step: Step) -> None:
        write = _FORMS.get(step.operation)
        if write is None or step.options:
            raise UserError(
                f"--format onnx: {self.name} computes {step.operation}, which this program cannot say in ONNX: take "
                "--format torch"
            )
        write(self, step)


_Form = Callable[[_Writer, Step], object]


def _simple(kind: str, **attributes: Any) -> _Form:
    """A node of the step's first argument alone."""
    return lambda to, step: to._node(kind, [to._input(step.arguments[0])], step.result, **attributes)


def _binary(kind: str) -> _Form:
    return lambda to, step: to._node(kind, [to._input(one) for one in step.arguments[:2]], step.result)


def _rest(step: Step, *defaults: Any) -> list[Any]:
    """The arguments behind the first, with defaults where they were left out."""
    given = step.arguments[1:]
    return [*given, *defaults[len(given) :]]


def _pair(value: Any) -> list[int]:
    return [int(one) for one in (value * 2 if len(value) == 1 else value)] if isinstance(value, list) else [value] * 2


def _convolution(to: _Writer, step: Step) -> None:
    weight, bias, stride, padding, dilation, groups = _rest(step, None, None, [1], [0], [1], 1)
    inputs = [to._input(one) for one in (step.arguments[0], weight, bias) if one is not None]
    pads, kernel = _pair(padding), to.values[weight] if isinstance(weight, Reference) else weight
    to._node(
        "Conv",
        inputs,
        step.result,
        kernel_shape=list(kernel.shape[2:]),
        strides=_pair(stride),
        pads=pads * 2,
        dilations=_pair(dilation),
        group=groups,
    )


def _batch_norm(to: _Writer, step: Step) -> None:
    *inputs, _, _, epsilon, _ = step.arguments
    to._node("BatchNormalization", [to._input(one) for one in inputs], step.result, epsilon=epsilon)


def _linear(to: _Writer, step: Step) -> None:
    weight, bias = _rest(step, None, None)
    if to.values[step.arguments[0]].dim() != 2:
        raise UserError(f"--format onnx: {to.name} has a linear layer on more than two axes: take --format torch")
    inputs = [to._input(one) for one in (step.arguments[0], weight, bias) if one is not None]
    to._node("Gemm", inputs, step.result, transB=1)


def _max_pool(to: _Writer, step: Step) -> None:
    kernel, stride, padding, dilation, ceil = _rest(step, None, [], [0], [1], False)
    to._node(
        "MaxPool",
        [to._input(step.arguments[0])],
        step.result,
        kernel_shape=_pair(kernel),
        strides=_pair(stride or kernel),
        pads=_pair(padding) * 2,
        dilations=_pair(dilation),
        ceil_mode=int(ceil),
    )


def _average_pool(to: _Writer, step: Step) -> None:
    kernel, stride, padding, ceil, counts_padding, divisor = _rest(step, None, [], [0], False, True, None)
    if divisor is not None:
        raise UserError(f"--format onnx: {to.name} averages with a divisor of its own: take --format torch")
    to._node(
        "AveragePool",
        [to._input(step.arguments[0])],
        step.result,
        kernel_shape=_pair(kernel),
        strides=_pair(stride or kernel),
        pads=_pair(padding) * 2,
        ceil_mode=int(ceil),
        count_include_pad=int(counts_padding),
    )


def _adaptive_pool(to: _Writer, step: Step) -> None:
    source, sides = step.arguments
    before, after = to.values[source].shape[2:], _pair(sides)
    if after == [1, 1]:
        to._node("GlobalAveragePool", [to._input(source)], step.result)
    elif all(large % small == 0 for large, small in zip(before, after, strict=True)):
        kernel = [large // small for large, small in zip(before, after, strict=True)]
        to._node("AveragePool", [to._input(source)], step.result, kernel_shape=kernel, strides=kernel)
    else:  # cells of several sizes: a product with the mean of each cell's rows and columns
        rows, columns = (
            torch.nn.functional.adaptive_avg_pool1d(torch.eye(large)[None], small)[0].T
            for large, small in zip(before, after, strict=True)
        )
        by_rows = to._node("MatMul", [to._constant(rows.numpy()), to._input(source)], f"{step.result}_rows")
        to._node("MatMul", [by_rows, to._constant(columns.T.numpy().copy())], step.result)


def _reduce(kind: str) -> _Form:
    def write(to: _Writer, step: Step) -> None:
        axes, keep = _rest(step, None, False)[:2]
        inputs = [to._input(step.arguments[0]), to._constant(np.asarray(axes, dtype=np.int64))]
        to._node(kind, inputs, step.result, keepdims=int(keep))

    return write


def _flatten(to: _Writer, step: Step) -> None:
    start, end = _rest(step, 0, -1)
    if start != 1 or end not in (-1, to.values[step.arguments[0]].dim() - 1):
        raise UserError(f"--format onnx: {to.name} flattens other axes than all behind the batch: take --format torch")
    to._node("Flatten", [to._input(step.arguments[0])], step.result, axis=1)


def _clip(low: float | None, high: float | None) -> _Form:
    """Limits that the operation has, or that its arguments give."""

    def write(to: _Writer, step: Step) -> None:
        given = _rest(step, low, high)[:2] if step.operation != "relu6.default" else [low, high]
        inputs = [to._input(step.arguments[0]), *("" if one is None else to._input(one) for one in given)]
        to._node("Clip", inputs, step.result)

    return write


def _silu(to: _Writer, step: Step) -> None:
    source = to._input(step.arguments[0])
    gate = to._node("Sigmoid", [source], f"{step.result}_gate")
    to._node("Mul", [source, gate], step.result)


def _leaky(to: _Writer, step: Step) -> None:
    to._node("LeakyRelu", [to._input(step.arguments[0])], step.result, alpha=float(_rest(step, 0.01)[0]))


def _concatenate(to: _Writer, step: Step) -> None:
    to._node("Concat", [to._input(one) for one in step.arguments[0]], step.result, axis=_rest(step, 0)[0])


def _quantize(to: _Writer, step: Step) -> None:
    scale, zero, low, high, _ = step.arguments[1:]
    source = to._input(step.arguments[0])
    if (low, high) != (0, 255):  # ONNX saturates at the ends of the type alone
        limits = [to._constant(np.float32((end - zero) * scale)) for end in (low, high)]
        source = to._node("Clip", [source, *limits], f"{step.result}_clipped")
    inputs = [source, to._constant(np.float32(scale)), to._constant(np.uint8(zero))]
    to._node("QuantizeLinear", inputs, step.result)


def _dequantize(to: _Writer, step: Step) -> None:
    scale, zero = step.arguments[1:3]
    inputs = [to._input(step.arguments[0]), to._constant(np.float32(scale)), to._constant(np.uint8(zero))]
    to._node("DequantizeLinear", inputs, step.result)


def _dequantize_channels(to: _Writer, step: Step) -> None:
    weight, scales, zeros, axis = step.arguments[:4]
    inputs = [to._input(weight), to._input(scales), to._constant(zeros.numpy().astype(np.int8))]
    to._node("DequantizeLinear", inputs, step.result, axis=axis)


_FORMS: Mapping[str, _Form] = {
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
    "flatten.using_ints": _flatten,
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
