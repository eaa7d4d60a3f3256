"""How fast a network runs at each precision, as a whole and segment by segment, and on which kernels.

    python tests/benchmarks/precision.py

Everything is timed in turns in one process, so that the ratios hold even where the seconds do not. The weights are
random: what a network computes does not change how long it takes.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from report import (
    LAYOUTS,
    add_common_options,
    circumstances,
    interleaved,
    lay_out,
    print_circumstances,
    print_table,
    register_tiny,
    run_classic,
    start_quietly,
)
from support.integer_operations import integer_operations  # report adds the folder of support to the path
from torch import Tensor, nn

from study.networks.inference_network import RunnableNetwork
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.precisions import Precision
from study.networks.quantization import prepare
from study.networks.registry import State
from study.networks.settings import HeadSettings, NetworkSettings

CLASSES = 10
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
SEGMENT_WINDOW_SECONDS = 0.02


@dataclass(frozen=True)
class Variant:
    """A network made ready in one way, and images that lie in memory as it wants them."""

    precision: Precision
    compiled: bool
    layout: str
    network: RunnableNetwork
    images: Tensor
    seconds_to_prepare: float
    """The first pass included, in which a compiler works."""

    @property
    def kind(self) -> str:
        """Precision and execution."""
        return _kind(self.precision, self.compiled)

    @property
    def name(self) -> str:
        """Of the row."""
        return f"{self.kind}, {self.layout}"

    @property
    def parts(self) -> int:
        """Segments and the classifier."""
        return self.network.exit_count + 1


def _kind(precision: Precision, compiled: bool) -> str:
    return f"{precision} {'compiled' if compiled else 'lowered' if precision == 'int8' else 'eager'}"


def make_variants(network: MultiExitNetwork, images: Tensor) -> tuple[list[Variant], dict[str, str]]:
    """Every precision, compiled and not, in both layouts; and why those failed that did."""
    variants: list[Variant] = []
    failures: dict[str, str] = {}
    for layout, memory_format in LAYOUTS.items():
        laid_out = images.contiguous(memory_format=memory_format)
        for precision in PRECISIONS:
            for compiled in (False, True):
                name = f"{_kind(precision, compiled)}, {layout}"
                start = time.perf_counter()
                try:
                    # A copy each: preparing shares the weights, and the next layout would move them.
                    source = lay_out(copy.deepcopy(network), layout)
                    ready = prepare(source, precision, calibration=laid_out, compiled=compiled)
                    run_classic(ready, laid_out)
                except Exception as error:  # a compiler fails in many ways, and the other variants still count
                    failures[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                    continue
                seconds = time.perf_counter() - start
                print(f"ready after {seconds:5.1f} s: {name}", flush=True)
                variants.append(Variant(precision, compiled, layout, ready, laid_out, seconds))
    return variants, failures


def whole_network(variants: Sequence[Variant], repeats: int) -> list[dict[str, object]]:
    """Images per second of each variant, the fastest first; ratios against the better layout of each reference."""
    runs = {variant.name: partial(run_classic, variant.network, variant.images) for variant in variants}
    seconds = interleaved(runs, repeats=repeats)

    def reference(kind: str) -> float | None:
        return min((seconds[variant.name].median for variant in variants if variant.kind == kind), default=None)

    eager, compiled = reference("fp32 eager"), reference("fp32 compiled")
    rows: list[dict[str, object]] = []
    for variant in sorted(variants, key=lambda variant: seconds[variant.name].median):
        spread, count = seconds[variant.name], len(variant.images)
        rows.append(
            {
                "variant": variant.name,
                "images/s": count / spread.median,
                "min": count / spread.maximum,
                "max": count / spread.minimum,
                "x fp32 eager": eager and eager / spread.median,
                "x fp32 compiled": compiled and compiled / spread.median,
                "ready after s": variant.seconds_to_prepare,
            }
        )
    return rows


def fastest(variants: Sequence[Variant], rows: Sequence[dict[str, object]], kind: str) -> Variant | None:
    """The variant of a kind in its better layout; ``rows`` have the fastest first."""
    by_name = {variant.name: variant for variant in variants}
    return next((by_name[str(row["variant"])] for row in rows if by_name[str(row["variant"])].kind == kind), None)


def segment_by_segment(
    network: MultiExitNetwork, variants: Sequence[Variant], repeats: int
) -> tuple[list[dict[str, object]], dict[str, float]]:
    """Seconds per batch of each part, each on its own input; and the median ratio of fp32 compiled to each int8.

    The median is over the segments with a convolution: the others have nothing to quantize.
    """
    by_kind = {variant.kind: variant for variant in variants}
    states: dict[str, State] = {kind: (variant.images,) for kind, variant in by_kind.items()}
    modules: list[nn.Module] = [*network.segments, network.classifier]
    rows: list[dict[str, object]] = []
    ratios: dict[str, list[float]] = {}
    for number, module in enumerate(modules, start=1):
        convolves = any(isinstance(layer, nn.Conv2d) for layer in module.modules())
        parts = {
            variant.kind: [*variant.network.segments, variant.network.classifier][number - 1] for variant in variants
        }
        runs = {kind: partial(part, states[kind]) for kind, part in parts.items()}
        seconds = interleaved(runs, repeats=repeats, at_least=SEGMENT_WINDOW_SECONDS)
        if number <= network.exit_count:
            states = {kind: variant.network.segments[number - 1](states[kind]) for kind, variant in by_kind.items()}
        name = network.exits[number - 1].name if number <= network.exit_count else "classifier"
        row: dict[str, object] = {"part": f"{number} {name}"}
        for kind, spread in seconds.items():
            row[f"{kind} ms"] = spread.median * 1e3
        for kind in seconds:
            if kind.startswith("int8") and "fp32 compiled" in seconds:
                ratio = seconds["fp32 compiled"].median / seconds[kind].median
                row[f"fp32 compiled / {kind}"] = ratio if convolves else None
                if convolves:
                    ratios.setdefault(kind, []).append(ratio)
        rows.append(row)
    return rows, {kind: median(values) for kind, values in ratios.items()}


def kernels(variant: Variant) -> dict[str, int]:
    """Operations of oneDNN's that the profiler saw in one pass, with their number of calls.

    ``compiled parts`` counts the parts that ran as the compiler made them: fewer than there are, and it gave up on
    the others.
    """
    # A first profile would show the profiler's own start.
    for _ in range(2):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            run_classic(variant.network, variant.images)
    calls: Counter[str] = Counter()
    for event in profiler.key_averages():
        if event.key.startswith(("onednn::", "mkldnn::", "aten::mkldnn", "quantized_decomposed::")):
            calls[event.key] += event.count
        elif event.key.startswith("Torch-Compiled Region"):
            calls["compiled parts"] += event.count
    return dict(calls)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vgg19")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=128)
    add_common_options(parser, quick="a smoke run: two convolutions, 8 images, 2 repeats")
    options = parser.parse_args()
    if options.quick:
        options.backbone, options.batch_size, options.repeats = register_tiny(), 8, 2
    start_quietly(options)

    facts = circumstances()
    print_circumstances(facts)
    shape = f"{options.backbone} x {options.width:g}, {options.image_size} pixels, {options.batch_size} images a batch"
    print(f"{'network':>24}  {shape}\n")
    torch.manual_seed(0)
    settings = NetworkSettings(backbone=options.backbone, width=options.width, head=HeadSettings(kind="linear"))
    network = build_network(settings, classes=CLASSES, image_size=options.image_size, channels=3).eval()
    images = torch.randn(options.batch_size, *network.input_shape)
    with torch.inference_mode():
        variants, failures = make_variants(network, images)
        whole = whole_network(variants, options.repeats)
        chosen = [fastest(variants, whole, kind) for kind in ("fp32 compiled", "int8 lowered", "int8 compiled")]
        compared = [variant for variant in chosen if variant is not None]
        segments, ratios = segment_by_segment(network, compared, options.repeats)
        seen = {variant.name: kernels(variant) for variant in compared}
    lowered = fastest(variants, whole, "int8 lowered")
    operations = {} if lowered is None else integer_operations(lowered.network)

    print_table(f"Whole network, median of {options.repeats} rounds", whole)
    for name, reason in failures.items():
        print(f"  failed: {name}: {reason}")
    print_table("Segment by segment, each in its better layout", segments)
    for kind, ratio in ratios.items():
        print(f"  median over the segments with a convolution: fp32 compiled / {kind} = {ratio:.2f}")
    print("\nInteger operations in the lowered graph of each part")
    print("  " + ", ".join(f"{part}: {count}" for part, count in operations.items() if not part.startswith("head")))
    for name, calls in seen.items():
        rows = [{"operation": operation, "calls": count} for operation, count in sorted(calls.items())]
        print_table(f"What the profiler saw in one pass of {name} ({compared[0].parts} parts)", rows)
    if options.json:
        result = {
            "circumstances": facts,
            "network": vars(options),
            "whole": whole,
            "failures": failures,
            "segments": segments,
            "median_ratios": ratios,
            "integer_operations": operations,
            "kernels": seen,
        }
        print("\n" + json.dumps(result))


if __name__ == "__main__":
    main()
