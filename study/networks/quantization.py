"""A trained network made ready for inference at a precision: fp32, bf16, int8.

int8 is static post-training quantization by torchao's PT2E flow with the X86 Inductor quantizer: weights have one scale
a channel, activations one a tensor, found on calibration images. Each segment, the classifier and, if asked for, each
head is quantized by itself, so that live inference, traces and profiles run the very same parts.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from study.errors import UserError
from study.networks.inference_network import RunnableNetwork, in_fp32
from study.networks.multi_exit import MultiExitNetwork
from study.networks.precisions import PRECISIONS, Int8Execution, Precision
from study.networks.registry import State

CALIBRATION_BATCH = 64


def check_precision(precision: str, device: torch.device | None) -> Precision:
    """The precision by its name.

    Args:
        precision: its name.
        device: to compute on; None where it is not at hand, so that nothing is known of it.

    Raises:
        UserError: it is unknown, or the device has no bf16 arithmetic.
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
) -> RunnableNetwork:
    """The network at a precision, on the device where it is.

    Args:
        network: stays as it is, in eval mode.
        precision: ``fp32``; ``bf16``: backbone in bf16, heads in fp32; ``int8``: backbone in int8, heads in fp32;
            ``int8_all``: heads in int8 too.
        calibration: ``[N, channels, height, width]`` normalised images of the calibration split, which show int8 the
            ranges of activations; a few hundred are enough.
        compiled: let ``torch.compile`` make kernels of each part (seconds a part at its first batch). From then on the
            process freezes the weights of all that it compiles.

    Raises:
        UserError: the device lacks the precision, int8 has no calibration images, or torchao is not there.
    """
    precision = check_precision(precision, network.device)
    runnable = in_fp32(network)
    if precision == "bf16":
        runnable = _in_bf16(network, runnable)
    elif precision != "fp32":
        if calibration is None or not len(calibration):
            raise UserError("int8 needs images of the calibration split to find the ranges of its activations")
        runnable = _in_int8(network, runnable, precision, calibration, compiled=compiled)
    return _compile(runnable) if compiled else runnable


def int8_execution(device: torch.device) -> Int8Execution:
    """How int8 is computed on a device: oneDNN's integer kernels on x86 CPUs, simulated elsewhere."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    if device.type != "cpu" or not x86 or not torch._C._has_mkldnn:
        return "simulated"
    # Without these, pairs of products are added in 16 bits, which saturate.
    known = torch.cpu.get_capabilities()
    return "x86_kernels" if any(known.get(name) for name in _SUMS_IN_32_BITS) else "x86_kernels_7_bit"


_SUMS_IN_32_BITS = ("avx512_vnni", "avx_vnni", "amx_int8")


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _in_bf16(network: MultiExitNetwork, fp32: RunnableNetwork) -> RunnableNetwork:
    """Backbone in bf16; each head gets its feature map, and everyone the classifier's logits, in fp32."""
    half = copy.deepcopy(network)
    half.backbone.to(torch.bfloat16)

    def segment(part: nn.Module) -> Callable[[State], State]:
        return lambda state: part(tuple(tensor.to(torch.bfloat16) for tensor in state))

    def head(part: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda feature: part(feature.float())

    return replace(
        fp32,
        segments=tuple(segment(part) for part in half.segments),
        exit_heads=tuple(head(part) for part in fp32.exit_heads),
        classifier=lambda state: half.classifier(state).float(),
        precision="bf16",
    )


class _Head(nn.Module):
    """One exit's head as a module of its own, as export wants it."""

    def __init__(self, heads: nn.Module, exit: int) -> None:
        super().__init__()
        self.heads, self.exit = heads, exit

    def forward(self, feature: Tensor) -> Tensor:
        logits: Tensor = self.heads(feature, self.exit)
        return logits


@dataclass(eq=False)
class _Part:
    """A part under quantization."""

    module: nn.Module
    sample: tuple[Any, ...]
    """Arguments of one call, on a batch of calibration images."""
    observed: Any
    """The module with observers; the module itself where there is nothing to quantize."""


def _in_int8(
    network: MultiExitNetwork, fp32: RunnableNetwork, precision: Precision, calibration: Tensor, *, compiled: bool
) -> RunnableNetwork:
    # Quantized where compilers and observers work best; simulated parts move to the device afterwards.
    source = copy.deepcopy(network).cpu().eval()
    images = calibration.cpu()
    if len(images) == 1:
        images = images.repeat(2, 1, 1, 1)  # export takes a batch of 1 for a constant
    execution = int8_execution(network.device)
    with _quiet(), torch.no_grad(), torch.random.fork_rng(devices=[]):  # its observers draw numbers
        backbone, heads = _observe(source, images[:CALIBRATION_BATCH], with_heads=precision == "int8_all")
        for batch in torch.split(images, CALIBRATION_BATCH):
            state: State = (batch,)
            for exit, part in enumerate(backbone[:-1], start=1):
                state = part.observed(state)
                if heads:
                    heads[exit - 1].observed(state[0])
            backbone[-1].observed(state)
        parts = [*backbone, *heads]
        # The compiler lowers by itself all that it gets.
        left = parts if not compiled else backbone[:1] if _leaves_first_part(source) else []
        lowered = left if execution != "simulated" else []
        finished = [_finish(part, lower=part in lowered).to(network.device) for part in parts]
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
    """Segments and classifier, and heads, with observers in them."""
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
    try:
        from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    except ImportError:
        raise UserError("int8 needs the package torchao: python3 -m pip install torchao") from None
    seven_bits = int8_execution(torch.device("cpu")) == "x86_kernels_7_bit"
    config = x86.get_default_x86_inductor_quantization_config(reduce_range=seven_bits)
    quantizer = x86.X86InductorQuantizer().set_global(config)
    return _Part(module, sample, observed=prepare_pt2e(_export(module, sample).module(), quantizer))


def _export(module: nn.Module, sample: tuple[Any, ...]) -> torch.export.ExportedProgram:
    """The module as a graph, for batches of any size."""
    batch = torch.export.Dim("batch", min=2)
    shapes = tuple({0: batch} if isinstance(item, Tensor) else tuple({0: batch} for _ in item) for item in sample)
    return torch.export.export(module, sample, dynamic_shapes=shapes)


def _finish(part: _Part, *, lower: bool) -> Any:
    if part.observed is part.module:
        return part.module  # a max-pool
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    converted = convert_pt2e(part.observed)
    return _lower(converted, part.sample) if lower else converted


def _lower(converted: Any, sample: tuple[Any, ...]) -> Any:
    """Replace quantize, float operation, dequantize by oneDNN's integer operations.

    The passes are those of torchao's ``lower_pt2e_quantized_to_x86``, which fixes the batch size and so cannot serve.
    """
    from torch._inductor.constant_folding import constant_fold
    from torch._inductor.fx_passes.freezing_patterns import freezing_passes

    lowered: Any = _export(converted, sample).run_decompositions().module()
    freezing_passes(lowered, sample)
    constant_fold(lowered)
    for node in list(lowered.graph.nodes):
        if node.target is torch.ops.aten.view.default:  # oneDNN's results lie in memory by channels
            node.target = torch.ops.aten.reshape.default
        elif node.target is torch.ops.quantized_decomposed.quantize_per_tensor.default:
            node.target = _rounded
        elif node.op == "call_module" and "guards" in str(node.target):  # 20 us a part, on arguments that we give
            lowered.graph.erase_node(node)
    lowered.recompile()
    return lowered


def _rounded(x: Tensor, scale: float, zero_point: int, smallest: int, largest: int, dtype: torch.dtype) -> Tensor:
    """x / scale + zero_point as an integer, bit for bit as the operation that it replaces, in less memory."""
    return (x * (1.0 / scale)).round_().add_(zero_point).clamp_(smallest, largest).to(dtype)


def integer_operations(network: RunnableNetwork) -> dict[str, int]:
    """oneDNN's integer operations in each part's graph: ``segment 1`` ... ``classifier``, ``head 1`` ... -> count.

    Empty graphs count 0, and so do parts that are no lowered graphs.
    """
    parts: Sequence[tuple[str, object]] = [
        *((f"segment {exit}", part) for exit, part in enumerate(network.segments, start=1)),
        ("classifier", network.classifier),
        *((f"head {exit}", part) for exit, part in enumerate(network.exit_heads, start=1)),
    ]
    return {name: _count_integer(part) for name, part in parts}


def _count_integer(part: object) -> int:
    graph = getattr(part, "graph", None)
    return 0 if graph is None else sum("onednn.q" in str(node.target) for node in graph.nodes)


def _compile(runnable: RunnableNetwork) -> RunnableNetwork:
    """Each part compiled, for batches of any size."""
    # Frozen weights let the compiler choose int8 kernels. The option of torch.compile comes too late for them (torch
    # 2.15: "qconv_prepack ... no fake impl"), so the setting of the process has to change.
    torch._inductor.config.freezing = True

    options: dict[str, Any] = {"dynamic": True}
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
        # Segments of one class share its `forward`, and with it a limit of recompilations beyond which they would
        # silently run uncompiled. Older versions of torch cannot tell them apart.
        options["isolate_recompiles"] = True

    def compiled(part: Callable[..., Any]) -> Callable[..., Any]:
        result: Callable[..., Any] = torch.compile(part, **options)
        return result

    first, *others = runnable.segments
    return replace(
        runnable,
        segments=(first if _leaves_first_part(runnable) else compiled(first), *map(compiled, others)),
        exit_heads=tuple(map(compiled, runnable.exit_heads)),
        classifier=compiled(runnable.classifier),
        compiled=True,
    )


def _leaves_first_part(network: RunnableNetwork | MultiExitNetwork) -> bool:
    """Whether the first segment is better not compiled.

    Images of one plane lie in memory by rows and by channels at once; oneDNN's convolution takes the one, the compiler
    (torch 2.15) the other for granted.
    """
    return network.input_shape[0] == 1


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the notices of a library that is used as documented off the user's screen."""
    logger = logging.getLogger("torch.utils._pytree")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
