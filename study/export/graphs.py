"""Describe a part of a network as the steps of :mod:`study.deploy.torch_parts`: plain JSON and named tensors.

``torch.export`` gives the operations of a module, for batches of any size. Operations on weights alone are computed
here, and a batch normalisation behind a convolution becomes a part of its weights.
"""

from __future__ import annotations

import hashlib
import operator
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind

from study.deploy.torch_parts import OPERATIONS, Part
from study.errors import UserError

Description: TypeAlias = dict[str, Any]
"""``inputs``, ``steps`` and ``outputs`` of a part."""

_SAME = (
    "dropout.default",
    "dropout_.default",
    "contiguous.default",
    "detach.default",
    "alias.default",
    "lift_fresh_copy.default",
)
"""Operations that change nothing in evaluation."""
_CREATED = ("new_zeros.default",)
"""Operations whose result depends on no number of their input."""
_PIECES = ("chunk.default", "split.Tensor", "split_with_sizes.default", "unbind.int")
"""Operations with several results, of which a description takes each by itself."""
_WITH_INTEGERS = ("dequantize_per_tensor.default", "dequantize_per_channel.default")
"""Operations on weights that are left to the part, because the integers are its weights."""


@dataclass
class Tensors:
    """The tensors of all parts. Parts that share a tensor name the same one."""

    by_name: dict[str, Tensor] = field(default_factory=dict)
    _names: dict[tuple[str, ...], str] = field(default_factory=dict)

    def name_of(self, tensor: Tensor, hint: str) -> str:
        """The name under which a tensor is stored."""
        stored = tensor.detach().cpu().contiguous()
        content = hashlib.sha256(stored.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        key = content, str(stored.dtype), str(list(stored.shape))
        if key not in self._names:
            name, number = hint, 1
            while name in self.by_name:
                number += 1
                name = f"{hint}_{number}"
            self._names[key], self.by_name[name] = name, stored
        return self._names[key]


def describe(module: nn.Module, sample: tuple[Tensor, ...], tensors: Tensors, what: str) -> Description:
    """The description of a part.

    Args:
        module: from tensors to a tensor or a tuple of tensors, in eval mode, on the CPU.
        sample: arguments of a call, at least two images.
        tensors: receives the weights of the part.
        what: names the part in messages.

    Raises:
        UserError: the part computes something that a description cannot say.
    """
    with torch.no_grad():
        described = _Writer(_exported(module, sample), tensors, what).write()
    _hold_against(module, described, tensors, sample, what)
    return described


def operations_of(module: nn.Module, sample: tuple[Tensor, ...], what: str) -> frozenset[str]:
    """The operations of the description of a part, which may lie on the device ``meta``; refused as in describe."""
    with torch.no_grad():
        writer = _Writer(_exported(module, sample), Tensors(), what)
        writer.read()
    return frozenset(name for name, *_ in writer.steps.values())


def _exported(module: nn.Module, sample: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=2)
    shapes = tuple({0: batch} for _ in sample)
    with warnings.catch_warnings(action="ignore"):  # of a module that keeps a tensor of its last call
        return torch.export.export(_Flat(module), sample, dynamic_shapes={"inputs": shapes})


class _Flat(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        result = self.module(*inputs)
        return result if isinstance(result, tuple) else (result,)


class _Writer:
    """One pass over the operations of an exported program."""

    def __init__(self, program: torch.export.ExportedProgram, tensors: Tensors, what: str) -> None:
        self.program, self.tensors, self.what = program, tensors, what
        self.inputs: list[str] = []
        self.constants: dict[torch.fx.Node, Tensor] = {}
        self.hints: dict[torch.fx.Node, str] = {}
        self.same: dict[torch.fx.Node, torch.fx.Node] = {}  # a node -> the node that now stands for it
        self.steps: dict[torch.fx.Node, tuple[str, list[Any], dict[str, Any]]] = {}

    def read(self) -> list[torch.fx.Node]:
        """Collect the steps; the nodes of the outputs."""
        sources = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs}
        outputs: list[torch.fx.Node] = []
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, sources[node.name])
            elif node.op == "output":
                outputs = [self._now(one) for one in node.args[0]]
            elif node.users or node.target.__name__.partition(".")[0].endswith("_"):
                self._operation(node)
        return outputs

    def write(self) -> Description:
        outputs = self.read()
        needed = self._needed(outputs)
        steps = [
            [node.name, name, self._plain(arguments), {key: self._plain(one) for key, one in options.items()}]
            for node, (name, arguments, options) in self.steps.items()
            if node in needed
        ]
        return {"inputs": self.inputs, "steps": steps, "outputs": [node.name for node in outputs]}

    def _placeholder(self, node: torch.fx.Node, spec: Any) -> None:
        if spec.kind == InputKind.USER_INPUT:
            self.inputs.append(node.name)
            return
        stored: Mapping[str, Any] = {**self.program.constants, **self.program.state_dict}
        self.constants[node], self.hints[node] = stored[spec.target], _hint(spec.target)

    def _now(self, node: torch.fx.Node) -> torch.fx.Node:
        while node in self.same:
            node = self.same[node]
        return node

    def _operation(self, node: torch.fx.Node) -> None:
        if node.target is operator.getitem:
            self._piece(node)
            return
        name = "mul.int" if node.target is operator.mul else str(node.target).partition(".")[2]
        if name in _PIECES:
            return
        arguments: list[Any] = list(cast(Any, torch.fx.map_arg(node.args, self._now)))
        options: dict[str, Any] = dict(cast(Any, torch.fx.map_arg(node.kwargs, self._now)))
        if name in _SAME:
            self.same[node] = arguments[0]
            return
        packet, _, overload = name.partition(".")
        in_place = packet.endswith("_")
        name = f"{packet.removesuffix('_')}.{overload}"
        nodes = _nodes([arguments, options])
        if name in _CREATED and nodes == arguments[:1]:
            created = cast(Any, node.target)(torch.zeros(0), *arguments[1:], **options)
            self.constants[node], self.hints[node] = created, node.name
            return
        if nodes and all(one in self.constants for one in nodes) and name not in _WITH_INTEGERS:
            value = cast(Any, node.target)(*map_nodes(arguments, self.constants), **map_nodes(options, self.constants))
            self.constants[node], self.hints[node] = value, self.hints[nodes[0]]
            return
        if name not in OPERATIONS:
            raise UserError(f"export: {self.what} computes {str(node.target)[:60]}, which no exported model can say")
        if name == "batch_norm.default" and self._fold(node, arguments):
            return
        self.steps[node] = (name, list(arguments), dict(options))
        if in_place:
            self.same[arguments[0]] = node

    def _piece(self, node: torch.fx.Node) -> None:
        """One of several results, as the slice or the row of the tensor that was cut."""
        cut, number = cast(tuple[torch.fx.Node, int], node.args)
        name = str(cut.target).partition(".")[2]
        if name not in _PIECES:
            raise UserError(f"export: {self.what} computes {str(cut.target)[:60]}, which no exported model can say")
        source: Any = self._now(cast(torch.fx.Node, cut.args[0]))
        places = cut.args[1:] if name == "unbind.int" else cut.args[2:]
        axis = int(cast(int, cut.kwargs.get("dim", places[0] if places else 0)))
        if name == "unbind.int":
            self.steps[node] = ("select.int", [source, axis, number], {})
            return
        lengths = [piece.shape[axis] for piece in cut.meta["val"]]
        if not all(isinstance(length, int) for length in lengths):
            raise UserError(f"export: {self.what} cuts a batch, which no exported model can say")
        start = sum(lengths[:number])
        self.steps[node] = ("slice.Tensor", [source, axis, start, start + lengths[number]], {})

    def _fold(self, node: torch.fx.Node, arguments: list[Any]) -> bool:
        """Make a batch normalisation a part of the fp32 convolution before it; False where there is none."""
        source, scale, shift, mean, variance, *_, epsilon, _ = arguments
        step = self.steps.get(source)
        if step is None or step[0] != "conv2d.default" or len(source.users) != 1:
            return False
        weight, bias = (self.constants.get(one) for one in [*step[1][1:3], None][:2])
        if weight is None or weight.dtype != torch.float32 or scale is None or shift is None:
            return False
        factor = self.constants[scale].double() / (self.constants[variance].double() + epsilon).sqrt()
        before = torch.zeros_like(factor) if bias is None else bias.double()
        folded = weight.double() * factor.reshape(-1, 1, 1, 1)
        moved = (before - self.constants[mean].double()) * factor + self.constants[shift].double()
        # The nodes of scale and shift, which nothing else reads, now stand for weight and bias of the convolution.
        hint = self.hints[step[1][1]].removesuffix("_weight")
        for place, value, name in ((scale, folded, "weight"), (shift, moved, "bias")):
            self.constants[place], self.hints[place] = value.float(), f"{hint}_{name}"
        del self.steps[source]
        self.steps[node] = (step[0], [step[1][0], scale, shift, *step[1][3:]], step[2])
        return True

    def _needed(self, outputs: list[torch.fx.Node]) -> set[torch.fx.Node]:
        needed, open_nodes = set(outputs), list(outputs)
        while open_nodes:
            step = self.steps.get(open_nodes.pop())
            new = set(_nodes([step[1], step[2]])) - needed if step else set()
            needed |= new
            open_nodes += new
        return needed

    def _plain(self, value: Any) -> Any:
        if isinstance(value, torch.fx.Node):
            if value in self.constants:
                return {"tensor": self.tensors.name_of(self.constants[value], self.hints[value])}
            return {"value": value.name}
        if isinstance(value, list | tuple):
            return [self._plain(one) for one in value]
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if value is None or isinstance(value, bool | int | float):
            return value
        raise UserError(f"export: {self.what} has an argument {str(value)[:60]!r}, which no exported model can say")


def _nodes(value: Any) -> list[torch.fx.Node]:
    if isinstance(value, torch.fx.Node):
        return [value]
    if isinstance(value, list | tuple):
        return [node for one in value for node in _nodes(one)]
    return [node for one in value.values() for node in _nodes(one)] if isinstance(value, dict) else []


def map_nodes(value: Any, of: Mapping[torch.fx.Node, Tensor]) -> Any:
    """A nest of arguments with tensors for its nodes."""
    return torch.fx.map_arg(value, lambda node: of[node])


def _hint(target: str) -> str:
    """A readable name of a tensor, from its place in the module."""
    return "".join(one if one.isalnum() else "_" for one in target).strip("_") or "tensor"


def _hold_against(
    module: nn.Module, described: Description, tensors: Tensors, sample: tuple[Tensor, ...], what: str
) -> None:
    """Refuse a description whose part computes something else than the module, on random batches of one and three."""
    part = Part(described, tensors.by_name)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for count in (1, 3):
            inputs = tuple(torch.randn(count, *one.shape[1:]).to(one.dtype) for one in sample)
            # A result in bf16 may differ in its last of 8 bits; a step of int8 is a 100th of the largest number.
            for own, expected in zip(part(*inputs), _Flat(module)(*inputs), strict=True):
                far = (own.float() - expected.float()).abs().max() / expected.float().abs().max().clamp_min(1e-3)
                if not far <= 0.05:
                    raise UserError(f"export: the description of {what} gives other results than {what} (by {far:.2g})")
