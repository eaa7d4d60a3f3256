"""The parts of an exported model as torch modules, ready for their device and precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn

from study.deploy.folder import Export
from study.deploy.int8_kernels import integer_calls, rounded
from study.deploy.torch_parts import OPERATIONS, Part, Reference
from study.networks.precisions import FORMATS, INT8, Int8Execution
from study.networks.quantization import compile_part, int8_execution

Run: TypeAlias = Callable[..., tuple[Tensor, ...]]


def execution_of(export: Export, device: torch.device) -> Int8Execution | None:
    """How a device computes the int8 of an exported model; None for other precisions.

    Activations of 8 bits could overflow on a CPU whose kernels take 7: they are simulated there.
    """
    if FORMATS[export.precision].backbone is not INT8:
        return None
    own = int8_execution(device)
    return "simulated" if (own, export.int8_execution) == ("x86_kernels_7_bit", "x86_kernels") else own


def runnable_parts(
    export: Export, device: torch.device, *, compiled: bool
) -> tuple[Sequence[Run], dict[int, Callable[[Tensor], Tensor]]]:
    """The parts in order, and exit -> head.

    Raises:
        ValueError: a description is of no part, or a head or the last part gives no score for each class.
    """
    kernels = execution_of(export, device) in ("x86_kernels", "x86_kernels_7_bit")
    formats = FORMATS[export.precision]
    how = export.preprocessing
    state: tuple[Tensor, ...] = (torch.zeros(2, how.channels, how.image_size, how.image_size),)
    tensors = {name: _laid_out(tensor) for name, tensor in export.tensors.items()}
    parts: list[Run] = []
    heads: dict[int, Callable[[Tensor], Tensor]] = {}
    ends = [*export.tried, None]
    with torch.no_grad():
        for number, graph in enumerate(export.parts):
            plain = Part(graph, tensors)
            state = plain(*state)  # parts that do not fit together are told here, not by the first image
            own_kernels = kernels and formats.backbone is INT8
            # Images of one plane have two memory layouts at once, of which oneDNN and the compiler each take one.
            leave = compiled and number == 0 and how.channels == 1
            parts.append(_ready(plain, device, kernels=own_kernels, compiled=compiled and not leave))
            exit = ends[number] if number < len(ends) else None
            if exit is not None:
                head = Part(export.heads[exit], tensors)
                _check_logits(head(state[0]), export, f"the head of exit {exit}")
                own_kernels = kernels and formats.heads is INT8
                ready = _ready(head, device, kernels=own_kernels, compiled=compiled)
                heads[exit] = _Only(ready)
            else:
                _check_logits(state, export, "the last part")
    return parts, heads


def _check_logits(results: tuple[Tensor, ...], export: Export, what: str) -> None:
    """Refuse what is no ``[2, C]`` for two images."""
    expected = (2, len(export.class_names))
    if len(results) != 1 or tuple(results[0].shape) != expected or not results[0].is_floating_point():
        found = ", ".join(str(tuple(one.shape)) for one in results)
        raise ValueError(f"{what} gives {found} for two images of {expected[1]} classes")


class _Only:
    """The one result of a part."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __call__(self, feature: Tensor) -> Tensor:
        return self._run(feature)[0]


def _ready(plain: Part, device: torch.device, *, kernels: bool, compiled: bool) -> Run:
    module: Any = graph_module(plain, kernels=kernels, in_place=not compiled).to(device)
    return compile_part(module) if compiled else module


def graph_module(plain: Part, *, kernels: bool, in_place: bool = True) -> fx.GraphModule:
    """A described part as one generated function, faster than the steps one by one.

    Args:
        plain: the described part.
        kernels: int8 by oneDNN's integer kernels.
        in_place: as of :func:`study.deploy.int8_kernels.integer_calls`.
    """
    operations: dict[str, Callable[..., Any]] = dict(OPERATIONS)
    integer = integer_calls(plain, in_place=in_place) if kernels else {}
    if kernels:
        operations["quantize_per_tensor.default"] = rounded
        operations["view.default"] = torch.ops.aten.reshape.default  # oneDNN's results have the layout channels_last
    graph, root, values = fx.Graph(), nn.Module(), dict[str, fx.Node]()
    uses = _use_counts(plain)
    for name in plain.inputs:
        values[name] = graph.placeholder(f"input_{len(values)}")
    for step in plain.steps:
        call = integer.get(step.result)
        if call is not None:
            arguments = _filled(call.arguments, values, graph, root)
            values[step.result] = graph.call_function(call.function, tuple(arguments))
            continue
        function = operations[step.operation]
        arguments, options = (_filled(one, values, graph, root) for one in (step.arguments, step.options))
        source = step.arguments[0] if step.arguments else None
        if step.operation == "relu.default" and uses.get(source, 0) == 1 and source not in plain.inputs:
            function = torch.ops.aten.relu_.default  # its input is read by nothing else
        values[step.result] = graph.call_function(function, tuple(arguments), options)
    graph.output(tuple(values[name] for name in plain.outputs))
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    return fx.GraphModule(root, graph)


def _use_counts(plain: Part) -> dict[Any, int]:
    counts: dict[Any, int] = dict.fromkeys(plain.outputs, 1)

    def count(argument: Any) -> None:
        if isinstance(argument, Reference):
            counts[argument] = counts.get(argument, 0) + 1
        elif isinstance(argument, list):
            for one in argument:
                count(one)

    for step in plain.steps:
        count([*step.arguments, *step.options.values()])
    return counts


def _filled(argument: Any, values: dict[str, fx.Node], graph: fx.Graph, root: nn.Module) -> Any:
    if isinstance(argument, Reference):
        return values[argument]
    if isinstance(argument, Tensor):
        # A tensor may be an argument twice: an export stores equal tensors once.
        name = f"tensor_{sum(1 for _ in root.named_buffers(remove_duplicate=False))}"
        root.register_buffer(name, argument)
        return graph.get_attr(name)
    if isinstance(argument, list):
        return [_filled(one, values, graph, root) for one in argument]
    if isinstance(argument, dict):
        return {name: _filled(one, values, graph, root) for name, one in argument.items()}
    return argument


def _laid_out(tensor: Tensor) -> Tensor:
    """The memory layout in which convolutions are fastest."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
