"""A trained network made ready for inference at a precision: fp32, bf16, int8.

int8 is static post-training quantization by torchao's PT2E flow with the X86 Inductor quantizer. Weights have one scale
for each channel, activations one scale for each tensor; calibration images give the ranges of the activations. Each
segment, the classifier and, on request, each head is quantized separately, so that live inference, traces and profiles
run the same parts.

The lowering to integer kernels uses private modules of torch (``torch._inductor``), because torch offers no public way
for batches of any size. ``pyproject.toml`` therefore bounds torch and torchao from above.
"""

from __future__ import annotations

import copy
import inspect
import logging
import platform
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from study.errors import UserError
from study.networks.cascade import cascaded
from study.networks.inference_network import RunnableNetwork
from study.networks.multi_exit import MultiExitNetwork
from study.networks.precisions import PRECISIONS, Int8Execution, Precision
from study.networks.registry import State

CALIBRATION_BATCH = 64


def check_precision(precision: str, device: torch.device | None) -> Precision:
    """A precision by its name. A device of None is unknown, and not checked.

    Raises:
        UserError: the precision is unknown, or the device has no bf16 arithmetic.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r} is unknown: use one of {', '.join(PRECISIONS)}")
    if precision == "bf16" and device is not None and not _has_bf16(device):
        raise UserError(f"precision bf16: this {device.type} has no bf16 arithmetic; use fp32 or int8")
    return precision


def prepare(
    network: MultiExitNetwork,
    precision: Precision,
    *,
    calibration: Tensor | None = None,
    compiled: bool = False,
    lowered: bool = True,
) -> RunnableNetwork:
    """Prepare a network for inference at a precision, on its device.

    Args:
        network: its weights stay unchanged; it is put into eval mode.
        calibration: ``[N, channels, height, width]`` normalised images of the calibration split, from which int8 takes
            the ranges of activations; a few hundred images are enough.
        compiled: compile each part with ``torch.compile``, which takes seconds for each part at the first batch. The
            process then freezes the weights of everything that it compiles.
        lowered: give int8 parts the device's integer kernels. If not, they quantize, compute in float and dequantize,
            as descriptions of them need it.

    Raises:
        UserError: the device lacks the precision, or int8 has no calibration images.
    """
    precision = check_precision(precision, network.device)
    runnable = _in_fp32(network)
    if precision == "bf16":
        runnable = _in_bf16(network, runnable)
    elif precision != "fp32":
        if calibration is None or not len(calibration):
            raise UserError("int8 needs images of the calibration split, which give the ranges of the activations")
        runnable = _in_int8(network, runnable, precision, calibration, compiled=compiled, lowered=lowered)
    return cascaded(_compile(runnable) if compiled else runnable, network.cascade)


def in_fp32(network: MultiExitNetwork) -> RunnableNetwork:
    """A network in fp32: put into eval mode, its parts shared."""
    return cascaded(_in_fp32(network), network.cascade)


def _in_fp32(network: MultiExitNetwork) -> RunnableNetwork:
    network.eval()
    return RunnableNetwork(
        segments=network.segments,
        exit_heads=tuple(_Head(network.heads, exit) for exit in range(1, network.exit_count + 1)),
        classifier=network.classifier,
        classes=network.classes,
        input_shape=network.input_shape,
        device=network.device,
        precision="fp32",
    )


def int8_execution(device: torch.device) -> Int8Execution:
    """How a device computes int8: by oneDNN's integer kernels on x86 CPUs, simulated elsewhere."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    if device.type != "cpu" or not x86 or not _has_onednn():
        return "simulated"
    known = torch.cpu.get_capabilities()
    return "x86_kernels" if any(known.get(name) for name in _SUMS_IN_32_BITS) else "x86_kernels_7_bit"


_SUMS_IN_32_BITS = ("avx512_vnni", "avx_vnni", "amx_int8")
"""A CPU without these instructions adds pairs of 8-bit products in 16 bits, which saturate."""


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return _has_onednn() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def _in_bf16(network: MultiExitNetwork, fp32: RunnableNetwork) -> RunnableNetwork:
    """Backbone in bf16. Heads read feature maps in fp32; the classifier's logits are fp32."""
    half = copy.deepcopy(network)
    half.backbone.to(torch.bfloat16)
    return replace(
        fp32,
        segments=tuple(_SegmentInBf16(part) for part in half.segments),
        exit_heads=tuple(_HeadOfBf16(part) for part in fp32.exit_heads),
        classifier=_ClassifierInBf16(half.classifier),
        precision="bf16",
    )


class _SegmentInBf16(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, state: State) -> State:
        result: State = self.part(tuple(tensor.to(torch.bfloat16) for tensor in state))
        return result


class _HeadOfBf16(nn.Module):
    def __init__(self, part: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.part = part

    def forward(self, feature: Tensor) -> Tensor:
        return self.part(feature.float())


class _ClassifierInBf16(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, state: State) -> Tensor:
        logits: Tensor = self.part(state)
        return logits.float()


class _Head(nn.Module):
    """The head of one exit as a module: ``torch.export`` takes modules."""

    def __init__(self, heads: nn.Module, exit: int) -> None:
        super().__init__()
        self.heads, self.exit = heads, exit

    def forward(self, feature: Tensor) -> Tensor:
        logits: Tensor = self.heads(feature, self.exit)
        return logits


@dataclass(eq=False)
class _Part:
    """A part that is being quantized: ``sample`` are the arguments of a call, on a batch of calibration images."""

    module: nn.Module
    sample: tuple[Any, ...]
    observed: Any
    """The module with observers, or the module itself if it has nothing to quantize."""


def _in_int8(
    network: MultiExitNetwork,
    fp32: RunnableNetwork,
    precision: Precision,
    calibration: Tensor,
    *,
    compiled: bool,
    lowered: bool,
) -> RunnableNetwork:
    # Export and observers run on the CPU; simulated parts move to the device afterwards.
    source = copy.deepcopy(network).cpu().eval()
    images = calibration.cpu()
    if len(images) == 1:
        images = images.repeat(2, 1, 1, 1)  # export treats a batch size of 1 as a constant
    execution = int8_execution(network.device)
    # The user cannot act upon the warnings of torch and torchao. Observers draw random numbers.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"), torch.no_grad(), torch.random.fork_rng(devices=[]):
        backbone, heads = _observe(source, images[:CALIBRATION_BATCH], with_heads=precision == "int8_all")
        for batch in torch.split(images, CALIBRATION_BATCH):
            state: State = (batch,)
            for exit, part in enumerate(backbone[:-1], start=1):
                state = part.observed(state)
                if heads:
                    heads[exit - 1].observed(state[0])
            backbone[-1].observed(state)
        parts = [*backbone, *heads]
        # The compiler lowers the parts that it compiles.
        uncompiled = parts if not compiled else backbone[:1] if _leaves_first_part(source) else []
        integer = uncompiled if lowered and execution != "simulated" else []
        finished = [_finish(part, lowered=part in integer).to(network.device) for part in parts]
    depth = network.exit_count
    return replace(
        fp32,
        segments=tuple(finished[:depth]),
        classifier=finished[depth],
        exit_heads=tuple(finished[depth + 1 :]) or fp32.exit_heads,
        precision=precision,
        int8_execution=execution,
    )


def _observe(source: MultiExitNetwork, images: Tensor, *, with_heads: bool) -> tuple[list[_Part], list[_Part]]:
    """Insert observers; return segments and classifier, and heads."""
    state: State = (images,)
    backbone, heads = [], []
    for exit, segment in enumerate(source.segments, start=1):
        backbone.append(_observed(segment, (state,)))
        state = segment(state)
        if with_heads:
            heads.append(_observed(_Head(source.heads, exit), (state[0],)))
    backbone.append(_observed(source.classifier, (state,)))
    return backbone, heads


def _observed(module: nn.Module, sample: tuple[Any, ...]) -> _Part:
    if not any(isinstance(layer, nn.Conv2d | nn.Linear) for layer in module.modules()):
        return _Part(module, sample, observed=module)
    # Imported here, because networks in fp32 and bf16 run without torchao.
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    seven_bits = int8_execution(torch.device("cpu")) == "x86_kernels_7_bit"
    config = x86.get_default_x86_inductor_quantization_config(reduce_range=seven_bits)
    quantizer = x86.X86InductorQuantizer().set_global(config)
    exported = _export(module, sample).module()
    _tell_calls_apart(exported.graph)
    return _Part(module, sample, observed=prepare_pt2e(exported, quantizer))


def _tell_calls_apart(graph: torch.fx.Graph) -> None:
    """Give each call of a module a path of its own: torchao takes the operations of a path for a single call.

    A residual block of torchvision, for instance, calls the same ReLU several times. The keys of the stack count calls.
    """
    for node in graph.nodes:
        if stack := node.meta.get("nn_module_stack"):
            call, (_, kind) = list(stack.items())[-1]
            node.meta["nn_module_stack"] = {**stack, call: (call, kind)}


def _export(module: nn.Module, sample: tuple[Any, ...]) -> torch.export.ExportedProgram:
    """Export a module as a graph for batches of any size."""
    batch = torch.export.Dim("batch", min=2)
    shapes = tuple({0: batch} if isinstance(item, Tensor) else tuple({0: batch} for _ in item) for item in sample)
    return torch.export.export(module, sample, dynamic_shapes=shapes)


def _finish(part: _Part, *, lowered: bool) -> Any:
    if part.observed is part.module:
        return part.module  # a max-pool
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    converted = convert_pt2e(part.observed)
    return lower(converted, part.sample) if lowered else converted


def lower(converted: Any, sample: tuple[Any, ...]) -> Any:
    """Replace the sequence quantize, float operation, dequantize by oneDNN's integer operations.

    Args:
        converted: a module in the operations of ``quantized_decomposed``, on the CPU.
        sample: the arguments of a call, with at least two images.

    The passes are those of torchao's ``lower_pt2e_quantized_to_x86``, which cannot be used: it fixes the batch size.
    The passes look for single operations without mutation. Two traces give them: the first takes composite operations
    apart, the second replaces operations that write in place. ``torch.export`` gives the same graph in more time.
    """
    from torch._inductor.constant_folding import constant_fold
    from torch._inductor.fx_passes.freezing_patterns import freezing_passes
    from torch.func import functionalize

    lowered: Any = _traced(functionalize(_traced(converted, sample), remove="mutations_and_views"), sample)
    freezing_passes(lowered, sample)
    constant_fold(lowered)
    for node in lowered.graph.nodes:
        if node.target in _VIEWS:  # oneDNN's results have the layout channels_last
            node.target = torch.ops.aten.reshape.default
        elif node.target is torch.ops.quantized_decomposed.quantize_per_tensor.default:
            node.target = _rounded
    lowered.recompile()
    return lowered


_VIEWS = (torch.ops.aten.view.default, torch.ops.aten.view_copy.default)


def _traced(function: Callable[..., Any], sample: tuple[Any, ...]) -> torch.fx.GraphModule:
    """A function as a graph for batches of any size."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    # By itself torch takes sizes that are equal for one size: a batch of 64 for 64 channels.
    mode = FakeTensorMode(shape_env=ShapeEnv(duck_shape=False), allow_non_fake_inputs=True)

    def described(tensor: Tensor) -> Tensor:
        sizes = [DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * (tensor.dim() - 1)]
        return mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))

    trace = make_fx(function, decomposition_table=_core_operations(), tracing_mode="symbolic")
    return trace(*torch.utils._pytree.tree_map_only(Tensor, described, sample))


@cache
def _core_operations() -> Mapping[Any, Any]:
    """How composite operations are taken apart: a table of hundreds of entries, which torch makes anew at each call."""
    from torch._decomp import core_aten_decompositions

    return dict(core_aten_decompositions())


def _rounded(x: Tensor, scale: float, zero_point: int, smallest: int, largest: int, dtype: torch.dtype) -> Tensor:
    """x / scale + zero_point as an integer: bit-equal to the replaced operation, in less memory."""
    return (x * (1.0 / scale)).round_().add_(zero_point).clamp_(smallest, largest).to(dtype)


def _compile(runnable: RunnableNetwork) -> RunnableNetwork:
    """Compile each part for batches of any size."""
    first, *others = runnable.segments
    return replace(
        runnable,
        segments=(first if _leaves_first_part(runnable) else compile_part(first), *map(compile_part, others)),
        exit_heads=tuple(map(compile_part, runnable.exit_heads)),
        classifier=compile_part(runnable.classifier),
        compiled=True,
    )


def compile_part(part: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a part for batches of any size, at its first call. The process then freezes all weights."""
    # The compiler chooses int8 kernels only if weights are frozen. The same option as an argument of torch.compile
    # fails (torch 2.15: "qconv_prepack ... no fake impl"); the setting of the process works.
    torch._inductor.config.freezing = True

    options: dict[str, Any] = {}
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
        # Segments of one class share one ``forward`` and one limit of recompilations. Beyond the limit they would run
        # uncompiled, without a message. Older versions of torch lack this option.
        options["isolate_recompiles"] = True
    compiled: Callable[..., Any] = torch.compile(part, dynamic=True, **options)
    return compiled


def _leaves_first_part(network: RunnableNetwork | MultiExitNetwork) -> bool:
    """Whether the first segment stays uncompiled.

    Images of one plane have both memory layouts, rows first and channels last, at once. oneDNN's convolution assumes
    one of them, the compiler (torch 2.15) the other.
    """
    return network.input_shape[0] == 1
