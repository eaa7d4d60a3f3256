"""FLOPs, weights, parameters and activations of every segment and head, counted on one image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from study.arrays import Floats
from study.costs.costs import Costs
from study.costs.memory import tensors_at_cuts
from study.data.settings import DataInfo
from study.networks.construction import shaped_network, with_code
from study.networks.inference_network import eval_mode
from study.networks.multi_exit import MultiExitNetwork
from study.networks.settings import NetworkSettings


@dataclass(frozen=True, kw_only=True)
class Work:
    """Operations and memory of one part of a network for one image."""

    flops: float
    """2 x multiply-accumulates of convolutions and linear layers."""
    weight_elements: float
    """Parameters and buffers read."""
    activation_elements: float
    """Elements of the part's input and output."""
    parameters: float = 0.0
    """Learnable elements of the modules that ran, buffers excluded."""
    parameter_sizes: Mapping[str, float] = field(default_factory=dict)
    """Elements of each tensor, by name. Heads that share a tensor share its name."""
    peak_activation_elements: float = 0.0
    """Largest number of feature-map elements that are alive at once while the part runs.

    While an operation runs, its inputs, its output and every map that is read later are alive. A later operation of the
    part may read a map (a skip while the convolutions of a residual block run), or a later part may read it (the state
    that a segment returns; for a head the whole state, because the image may go on). Element-wise operations and batch
    normalisation count as overwriting an input of the same size that nothing reads later, whether or not the library
    does so. Weights and the workspace of a kernel do not count.
    """


@dataclass(frozen=True)
class NetworkWork:
    """The work of all parts of a network with E exits."""

    segments: tuple[Work, ...]
    """E + 1 entries, the classifier last."""
    heads: tuple[Work, ...]
    """E entries."""
    engine_step: Work
    """One smoothing step of the prediction engine."""
    cascaded: bool = False
    """Whether an exit needs the heads of all exits before it (:mod:`study.networks.cascade`)."""

    @property
    def segment_flops(self) -> Floats:
        """``[E+1]``."""
        return np.array([work.flops for work in self.segments])

    @property
    def head_flops(self) -> Floats:
        """``[E]``."""
        return np.array([work.flops for work in self.heads])

    def flop_costs(self) -> Costs:
        """The FLOPs, as costs of the parts."""
        return Costs(segment_flops=self.segment_flops, head_flops=self.head_flops, cascaded=self.cascaded)

    @property
    def parameters_at_exits(self) -> Floats:
        """``[E+1]``: of the network cut at each exit, with its segments and the head of the exit; last, without exits.

        Shared parts of a head count whole: a codebook, linear layers, and the vector of E window scales. In a cascade a
        cut has all heads up to its exit.
        """
        heads = tensors_at_cuts([work.parameter_sizes for work in self.heads], cascaded=self.cascaded)
        parameters: Floats = np.append(heads, 0.0) + np.cumsum([work.parameters for work in self.segments])
        return parameters


def count_work(network: MultiExitNetwork) -> NetworkWork:
    """Count the work of each part by running one zero image through it (``torch.utils.flop_counter``).

    Element-wise operations, pooling and normalisation count no FLOPs, as is usual. A smoothing step of the engine adds
    three neighbours for each of C classes: 2 C additions.
    """
    segments, heads = [], []
    state: tuple[Tensor, ...] = (torch.zeros(1, *network.input_shape, device=network.device),)
    with eval_mode(network), torch.no_grad(), _separate_attention():
        for exit, segment in enumerate(network.segments, start=1):
            work, state = _measure(segment, state, state)
            segments.append(work)
            work, _ = _measure(network.heads, state[:1], state[0], exit, kept=state)
            heads.append(work)
        work, _ = _measure(network.classifier, state, state)
        segments.append(work)
    step = Work(flops=2.0 * network.classes, weight_elements=0.0, activation_elements=2.0 * network.classes)
    return NetworkWork(tuple(segments), tuple(heads), step, cascaded=bool(network.cascade))


def work_of(settings: NetworkSettings, info: DataInfo) -> NetworkWork:
    """The work of a network for a data set, by :func:`count_work`; counted once in a process.

    Raises:
        UserError: as of :func:`study.networks.construction.meta_network`.
    """
    return _work_of(with_code(settings), len(info.class_names), info.image_size, info.channels)


@lru_cache(maxsize=4096)
def _work_of(settings: NetworkSettings, classes: int, image_size: int, channels: int) -> NetworkWork:
    return count_work(shaped_network(settings, classes=classes, image_size=image_size, channels=channels))


@contextmanager
def _separate_attention() -> Iterator[None]:
    """Attention as single operations, the same on each device, in place of torch's fused ones.

    The map of all pairs of tokens then counts as memory, which fused kernels never hold whole.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _measure(
    part: nn.Module, read: tuple[Tensor, ...], *arguments: object, kept: tuple[Tensor, ...] = ()
) -> tuple[Work, tuple[Tensor, ...]]:
    """Run a part; return its work and its output as a tuple. Only the weights of modules that ran count, and those that
    an operation read: attention reads the weights of its output layer without a call of the layer.

    Args:
        part: a segment, the heads or the classifier.
        read: tensors of the state that the part reads.
        arguments: arguments of the call.
        kept: tensors that stay alive behind the part, besides its output.
    """
    recorder = _Recorder(ignored=_buffers([*part.parameters(), *part.buffers()]))
    with recorder, FlopCounterMode(display=False) as counter:
        calls, output = run_with_calls(part, *arguments)
    ran = [module for module, _, _ in calls]
    written: tuple[Tensor, ...] = output if isinstance(output, tuple) else (output,)
    # A carried tensor that the part returns unchanged is not moved.
    new = [tensor for tensor in written if all(tensor is not old for old in read)]
    held = [tensor for module in ran for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]]
    held += [tensor for tensor in [*part.parameters(), *part.buffers()] if _buffers([tensor]).keys() & recorder.weights]
    used = {id(tensor) for tensor in held}
    sizes = {name: float(tensor.numel()) for name, tensor in part.named_parameters() if id(tensor) in used}
    work = Work(
        flops=float(counter.get_total_flops()),
        weight_elements=_elements(held),
        activation_elements=float(sum(tensor.numel() for tensor in [*read, *new])),
        parameters=sum(sizes.values()),
        parameter_sizes=sizes,
        peak_activation_elements=_peak(
            recorder.operations, before=_buffers(read + kept), after=_buffers(written + kept)
        ),
    )
    return work, written


def run_with_calls(part: nn.Module, *arguments: object) -> tuple[list[tuple[nn.Module, Any, Any]], Any]:
    """Run a part; return the calls of its modules (module, inputs, output) as they end, and the output of the part."""
    calls: list[tuple[nn.Module, Any, Any]] = []
    with ExitStack() as hooks:
        for module in part.modules():
            hooks.enter_context(module.register_forward_hook(lambda *call: calls.append(call)))
        return calls, part(*arguments)


def _elements(tensors: Iterable[Tensor]) -> float:
    """Elements of distinct tensors of floats; integer tensors are batch counters, not weights."""
    return float(sum({id(tensor): tensor.numel() for tensor in tensors if tensor.is_floating_point()}.values()))


_Buffers = Mapping[int, int]
"""Elements of pieces of memory, by address. A view and its base are one piece."""


class _Operation(NamedTuple):
    """The memory that one operation read and wrote."""

    read: _Buffers
    written: _Buffers
    element_wise: bool


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its hooks for subclasses untyped
    """Records every operation, also operations outside modules (a residual addition).

    Args:
        ignored: memory of tensors that are not feature maps.
    """

    def __init__(self, *, ignored: _Buffers) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[_Operation] = []
        self.weights: set[int] = set()
        """Which of the ignored memory was read."""
        self._ignored = ignored
        self._held: list[object] = []  # keeps tensors alive: a freed address could be used again

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        kwargs = kwargs or {}
        result: object = function(*args, **kwargs)
        self._held += [args, kwargs, result]
        inputs, outputs = tree_leaves((args, kwargs)), tree_leaves(result)
        self.weights |= _buffers(inputs).keys() & self._ignored.keys()
        element_wise = torch.Tag.pointwise in function.tags
        if "batch_norm" in function.name():
            outputs, element_wise = outputs[:1], True  # the other outputs are statistics for training
        read, written = (
            {address: count for address, count in _buffers(leaves).items() if address not in self._ignored}
            for leaves in (inputs, outputs)
        )
        self.operations.append(_Operation(read, written, element_wise))
        return result


def _buffers(leaves: Iterable[object]) -> _Buffers:
    """The memory of the tensors of floats. (Integer tensors are indices of max-pools, which serve only training.)"""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    storages = [(tensor.untyped_storage(), tensor.element_size()) for tensor in tensors]
    # The address of the storage object: on the device ``meta``, where networks are counted, data have no address.
    return {storage._cdata: storage.nbytes() // size for storage, size in storages}


def _peak(operations: Sequence[_Operation], *, before: _Buffers, after: _Buffers) -> float:
    """Largest number of elements that are alive during one of the operations.

    Args:
        operations: in the order of execution.
        before: memory that holds maps when the first operation starts.
        after: memory that must hold maps when the last operation has ended.
    """
    last_use = dict.fromkeys(before, -1)
    for index, operation in enumerate(operations):
        last_use |= dict.fromkeys([*operation.read, *operation.written], index)
    last_use |= dict.fromkeys(after, len(operations))

    peak, alive = 0, dict(before)
    for index, operation in enumerate(operations):
        alive = {address: count for address, count in alive.items() if last_use[address] >= index}
        alive |= {**operation.read, **operation.written}
        total = sum(alive.values())
        if operation.element_wise:
            free = {count for address, count in operation.read.items() if last_use[address] == index}
            new = [count for address, count in operation.written.items() if address not in operation.read]
            total -= sum(count for count in new if count in free)
        peak = max(peak, total)
    return float(peak)
