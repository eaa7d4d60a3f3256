"""The segmenter: an ordinary torch module, cut behind some of its submodules into segments and a classifier.

``torch.fx`` records the forward of the module. Only modules that contain an exit are opened; every other module stays
one call, so that a block may compute as it likes. The parts hold the very layers of the module: its weights keep their
names, and its own forward stays as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, fx, nn

from search_spaces.words import short
from study.errors import UserError, is_lack_of_memory
from study.networks.inference_network import eval_mode
from study.networks.registry import ExitPoint, Form, Segmented, State, feature_shape

Layout: TypeAlias = Literal["first", "last"]
"""Whether the channels of a map are the first axis behind the batch or the last one."""
CHECKED_BATCH = 2
AGREEMENT = 1e-4
"""Largest difference from the module's own answer that a check accepts, as a share of the largest number."""


def segment_module(
    model: nn.Module,
    exits: Sequence[str],
    *,
    image: tuple[int, int, int],
    name: str,
    layout: Layout = "first",
    class_token: bool = False,
    check: bool = False,
) -> Segmented:
    """Cut a module behind the submodules ``exits``.

    Bag-of-Features heads share a codebook where the maps have the same number of channels, and all linear layers.

    Args:
        model: ``model(images) -> logits [B, C]``; unchanged, but for layers that would overwrite what an exit reads.
        exits: paths of submodules (``layer1.0``), in the order in which the module calls them.
        image: (channels, height, width).
        name: of the backbone, in messages.
        layout: the axis of the channels in maps of four axes.
        class_token: whether the first of the tokens ``[B, T, D]`` stands for the image.
        check: compare the parts with the module on random images; not possible on the device ``meta``.

    Raises:
        UserError: a path is unknown, the module cannot be cut there, or the parts would compute something else.
    """
    _check_names(model, exits, name)
    graph, own = _trace(model, exits, name)
    cuts = _cut_nodes(graph, exits, name)
    for cut in cuts:  # an exit and later segments read the same tensor
        for user in cut.users:
            if user.op == "call_module" and getattr(own[str(user.target)], "inplace", False):
                own[str(user.target)].inplace = False  # type: ignore[assignment]
    parts = _split(graph, cuts, own, name)
    with eval_mode(model), torch.no_grad():
        features = _run_parts(parts, image, name)
    forms = [_form(feature, layout, class_token) for feature in features]
    shapes = tuple(feature_shape(feature, form) for feature, form in zip(features, forms, strict=True))
    points = tuple(
        ExitPoint(place, f"channels{shape[0]}", "network", grid=2 if min(shape[1:]) >= 4 else 1, form=form)
        for place, form, shape in zip(exits, forms, shapes, strict=True)
    )
    try:
        segmented = Segmented(model, tuple(parts[:-1]), parts[-1], points, map_shapes=shapes)
    except ValueError as error:
        raise UserError(f"backbone {name}: its forward does not use all of its layers ({error})") from None
    if check:
        check_equal(segmented, image, name)
    return segmented


def check_equal(segmented: Segmented, image: tuple[int, int, int], name: str) -> None:
    """Refuse (``UserError``) parts that give another answer than the module itself, in eval mode, on random images."""
    device = next(segmented.model.parameters()).device
    images = torch.rand(CHECKED_BATCH, *image, generator=torch.Generator().manual_seed(0)).to(device)
    with eval_mode(segmented.model), torch.no_grad():
        state: State = (images,)
        for segment in segmented.segments:
            state = segment(state)
        found, expected = segmented.classifier(state), segmented.model(images)
    if not isinstance(expected, Tensor) or found.shape != expected.shape:
        raise UserError(f"backbone {name}: the module and its segments give results of different shapes")
    far = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
    if not far <= AGREEMENT:
        raise UserError(f"backbone {name}: the segments give another answer than the module (by {far:.2g})")


class _Tracer(fx.Tracer):
    """Opens the modules that contain an exit, and no other."""

    def __init__(self, opened: set[str]) -> None:
        super().__init__()
        self._opened = opened

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self._opened


class _Result(str):
    """The name of an earlier result in the arguments of a step."""

    __slots__ = ()


class _Step(NamedTuple):
    """One call of a forward."""

    result: str
    kind: str
    """``call_module``, ``call_function`` or ``call_method``."""
    name: str
    target: Any
    """A module, a function or the name of a method."""
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class GraphPart(nn.Module):
    """Some of the calls of a forward, one after the other: a segment or a classifier.

    It is no ``fx.GraphModule``: torchao finds nothing to quantize in one.
    """

    def __init__(self, inputs: Sequence[str], steps: Sequence[_Step], results: Any) -> None:
        super().__init__()
        self._inputs, self._results = tuple(inputs), results
        self._steps = []
        for step in steps:
            if step.kind == "call_module":
                key = step.name.replace(".", "__")
                setattr(self, key, step.target)
                step = step._replace(target=key)  # a step with a module would hide the module from ``deepcopy``
            self._steps.append(step)

    def forward(self, state: State) -> Any:
        """From a state to a state, or to logits."""
        values = dict(zip(self._inputs, state, strict=True))
        for step in self._steps:
            arguments, options = _filled(step.arguments, values), _filled(step.options, values)
            if step.kind == "call_module":
                values[step.result] = getattr(self, step.target)(*arguments, **options)
            elif step.kind == "call_function":
                values[step.result] = step.target(*arguments, **options)
            else:
                values[step.result] = getattr(arguments[0], step.target)(*arguments[1:], **options)
        return _filled(self._results, values)


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, _Result):
        return values[value]
    if isinstance(value, list | tuple):
        return type(value)(_filled(one, values) for one in value)
    if isinstance(value, dict):
        return {key: _filled(one, values) for key, one in value.items()}
    if isinstance(value, slice):
        return slice(*(_filled(one, values) for one in (value.start, value.stop, value.step)))
    return value


class OwnTensors(nn.Module):
    """The parameters and buffers that an opened module holds itself, as a class token.

    The mappings are those of the opened module: a move to another device or number format changes both.
    """

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self._parameters, self._buffers = owner._parameters, owner._buffers
        self._non_persistent_buffers_set = owner._non_persistent_buffers_set

    def forward(self, name: str) -> Tensor:
        """The tensor of this name."""
        tensor: Tensor = getattr(self, name)
        return tensor


def _check_names(model: nn.Module, exits: Sequence[str], name: str) -> None:
    known = [path for path, _ in model.named_modules() if path]
    if not exits:
        raise UserError(f"backbone {name}: name at least one place of an exit, as {', '.join(known[:3])}")
    for place in exits:
        if place not in known:
            raise UserError(f"backbone {name} has no module {place!r}: {_alike(place, known)}")
        if exits.count(place) > 1:
            raise UserError(f"backbone {name}: the exit {place!r} is named twice")


def _alike(place: str, known: Sequence[str]) -> str:
    """Some names that could be meant: those below the longest known beginning of the place."""
    start = place
    while start and start not in known:
        start = start.rpartition(".")[0]
    below = [
        one
        for one in known
        if one.startswith(f"{start}." if start else "") and one.count(".") == start.count(".") + bool(start)
    ]
    return f"known are {', '.join(below[:8])}{', ...' if len(below) > 8 else ''}"


def _trace(model: nn.Module, exits: Sequence[str], name: str) -> tuple[fx.Graph, dict[str, nn.Module]]:
    """The calls of the module's forward, and the modules that are called, by their paths."""
    opened = {place.rpartition(".")[0] for place in exits}
    for place in list(opened):
        opened |= {place[:end] for end, letter in enumerate(place) if letter == "."}
    graphs = {}
    was_training = model.training
    try:
        for training in (True, False):
            model.train(training)
            graphs[training] = _Tracer(opened).trace(model, concrete_args=_defaults(model))
    except Exception as error:  # whatever a forward does with a value that is none yet
        raise UserError(
            f"backbone {name}: its forward cannot be cut there ({short(error, 160)}): return segments, or choose exits "
            "that no such forward contains"
        ) from None
    finally:
        model.train(was_training)
    graph = graphs[False]
    if str(graph) != str(graphs[True]):
        raise UserError(
            f"backbone {name}: its forward computes something else in training outside of a module: use a module, as "
            "nn.Dropout, there"
        )
    # Assertions about sizes have no users; an operation in place has none either, but must stay.
    graph.eliminate_dead_code(lambda node: node.op in ("call_module", "placeholder", "output") or _changes_input(node))
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if any(node.users for node in inputs[1:]):
        raise UserError(f"backbone {name}: its forward takes more than the images")
    for node in inputs[1:]:
        graph.erase_node(node)
    modules = dict(model.named_modules())
    for node in list(graph.nodes):
        if node.op == "get_attr":
            _fetch(graph, node, modules)
    return graph, modules


def _defaults(model: nn.Module) -> dict[str, Any]:
    """The arguments of a forward behind the images, which keep their defaults."""
    _, *others = inspect.signature(model.forward).parameters.values()
    return {one.name: one.default for one in others if one.default is not one.empty}


def _changes_input(node: fx.Node) -> bool:
    return node.op == "call_method" and str(node.target).endswith("_")


def _fetch(graph: fx.Graph, node: fx.Node, modules: dict[str, nn.Module]) -> None:
    """Let a call of :class:`OwnTensors` stand for the attribute of an opened module."""
    owner, _, attribute = str(node.target).rpartition(".")
    path = f"{owner}.own_tensors" if owner else "own_tensors"
    modules.setdefault(path, OwnTensors(modules[owner]))
    with graph.inserting_before(node):
        call = graph.call_module(path, (attribute,))
    node.replace_all_uses_with(call)
    graph.erase_node(node)


def _cut_nodes(graph: fx.Graph, exits: Sequence[str], name: str) -> list[fx.Node]:
    calls: dict[str, list[fx.Node]] = {place: [] for place in exits}
    order = []
    for node in graph.nodes:
        if node.op == "call_module" and node.target in calls:
            calls[str(node.target)].append(node)
            order.append(str(node.target))
    for place, nodes in calls.items():
        if len(nodes) != 1:
            told = "is called more than once" if nodes else "is not called as a module, or lies in another exit"
            raise UserError(f"backbone {name}: no exit can stand behind {place!r}: it {told}")
    if order != list(exits):
        raise UserError(f"backbone {name}: name the exits in the order of the network, which is {', '.join(order)}")
    return [calls[place][0] for place in exits]


def _split(graph: fx.Graph, cuts: Sequence[fx.Node], modules: Mapping[str, nn.Module], name: str) -> list[GraphPart]:
    """E segments and the classifier, each from a state."""
    nodes = list(graph.nodes)
    images, output = nodes[0], nodes[-1]
    fixed = _fixed(nodes[1:-1], images)
    ends = [nodes.index(cut) for cut in cuts]
    behind = [nodes[end + 1 :] for end in ends]
    states = [[images]]
    for cut, end, later in zip(cuts, ends, behind, strict=True):
        needed = {one for node in later for one in node.all_input_nodes}
        carried = [node for node in nodes[:end] if node in needed and node not in fixed]
        states.append([cut, *carried])
    parts = []
    for number, start in enumerate([0, *ends]):
        last = number == len(cuts)
        inside = nodes[start + 1 : len(nodes) - 1 if last else ends[number] + 1]
        results = output.args[0] if last else tuple(states[number + 1])
        if last and not isinstance(results, fx.Node):
            raise UserError(f"backbone {name}: its forward returns {type(results).__name__}, not logits alone")
        parts.append(_part(states[number], inside, fixed, results, modules))
    return parts


def _fixed(nodes: Iterable[fx.Node], images: fx.Node) -> set[fx.Node]:
    """What does not depend on the images: each part computes it anew, because a state holds a row for each image."""
    found: set[fx.Node] = set()
    for node in nodes:
        if images not in node.all_input_nodes and all(one in found for one in node.all_input_nodes):
            found.add(node)
    return found


def _part(
    state: Sequence[fx.Node],
    inside: Sequence[fx.Node],
    fixed: set[fx.Node],
    results: Any,
    modules: Mapping[str, nn.Module],
) -> GraphPart:
    names = {node: _Result(node.name) for node in state}
    steps: list[_Step] = []

    def add(node: fx.Node) -> _Result:
        if node not in names:
            for one in node.all_input_nodes:
                add(one)
            names[node] = _Result(node.name)
            target = modules[str(node.target)] if node.op == "call_module" else node.target
            arguments = fx.map_arg((node.args, node.kwargs), lambda one: names[one])
            steps.append(_Step(names[node], node.op, str(node.target), target, *arguments))
        return names[node]

    for node in inside:
        if node not in fixed:
            add(node)
    return GraphPart([names[node] for node in state], steps, fx.map_arg(results, add))


def _run_parts(parts: Sequence[nn.Module], image: tuple[int, int, int], name: str) -> list[Tensor]:
    """The feature at each exit; refuses states that are no rows of images, and segments that overwrite their input."""
    device = next((one.device for part in parts for one in part.parameters()), torch.device("cpu"))
    state: Any = (torch.zeros(CHECKED_BATCH, *image, device=device),)
    features = []
    for number, part in enumerate(parts, start=1):
        versions = [tensor._version for tensor in state]
        try:
            result = part(state)
        except Exception as error:  # whatever a module finds wrong with its input
            if isinstance(error, MemoryError | RuntimeError) and is_lack_of_memory(error):
                raise
            size = " x ".join(map(str, image))
            raise UserError(f"backbone {name} cannot run on images of {size}: {short(error, 160)}") from None
        if [tensor._version for tensor in state] != versions:
            raise UserError(f"backbone {name}: what follows exit {number - 1} overwrites what the exit reads (inplace)")
        if number == len(parts):
            break
        for tensor in result:
            if not isinstance(tensor, Tensor) or not tensor.dim() or len(tensor) != CHECKED_BATCH:
                what = (
                    f"a tensor of shape {list(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
                )
                raise UserError(
                    f"backbone {name}: {what} passes exit {number}, but only tensors with a row for each image can"
                )
        state = result
        features.append(state[0])
    return features


def _form(feature: Tensor, layout: Layout, class_token: bool) -> Form:
    if feature.dim() == 3:
        return "tokens_behind_class" if class_token else "tokens"
    return "map" if layout == "first" or feature.dim() != 4 else "map_channels_last"
