"""How long replay takes: one operating point, grids, exact fronts; beside plain arrays and beside the live network.

    python tests/benchmarks/replay.py
    python tests/benchmarks/replay.py --only front scaling
    python tests/benchmarks/replay.py --only memory --big --scratch /data/scratch

What is compared is timed in turns in one process, so that ratios hold even where seconds do not. Logits are random.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TypeAlias
from unittest.mock import patch

import numpy as np
import torch
from fresh_process import MEGABYTE, STATUS, in_new_process, write_logits
from replay_sizes import Sizes, sizes_of
from report import (
    LAYOUTS,
    add_common_options,
    circumstances,
    interleaved,
    lay_out,
    print_circumstances,
    print_table,
    start_quietly,
)
from synthetic_trace import MEASURES, RULE, synthetic
from torch import Tensor

from study.arrays import Floats, batches, thread_count
from study.costs.measure.profile import Spread
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.settings import HeadSettings, NetworkSettings
from study.policies.decision_table import DecisionTable, table_for
from study.policies.live import run_policy
from study.policies.policies import Predictive
from study.policies.replay import Walk, join_walks, replay, tally
from study.policies.thresholds import thresholds_from_logits
from study.traces.collect import collect_logits
from study.traces.trace import Trace

Row: TypeAlias = dict[str, object]
TARGET_POINTS = 6.6e6
"""Distinct operating points that the targets of the exact front speak of."""
FRONTS = {("accuracy", "flops"): "< 1 s", ("accuracy", "flops", "energy"): "< 3 s"}
"""Objectives and their target."""
QUANTILES = (0.2, 0.5, 0.8)
"""Of the ratios, as betas: most samples stop at early, middle and late exits."""
SCALED = ("tally", "replay_grid", "exact_front")
SCALED_BETAS = 100


def first_calls(sizes: Sizes, options: argparse.Namespace) -> list[Row]:
    """What compiling takes, and what a process takes that finds the compiled functions on disk."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder, patch.dict(os.environ, NUMBA_CACHE_DIR=folder):
        compiled, cached = in_new_process("first_calls"), in_new_process("first_calls")
    rows: list[Row] = [{"first call": name, "compiled s": compiled[name], "cached s": cached[name]} for name in cached]
    rows.append({"first call": "all", "compiled s": sum(compiled.values()), "cached s": sum(cached.values())})
    print_table("First calls in a process: compiled, and loaded from the folder of an earlier process", rows)
    return rows


def one_point(sizes: Sizes, options: argparse.Namespace) -> list[Row]:
    """Milliseconds of one operating point."""
    subject = synthetic(sizes.samples, sizes.exits)
    rows: list[Row] = []
    for policy in map(subject.policy, QUANTILES):
        runs: dict[str, Callable[[], object]] = {
            "tally": partial(subject.tally, policy),
            "replay": partial(replay, subject.trace, policy),
            "plain": partial(subject.walk_plainly, policy),
        }
        seconds = interleaved(runs, repeats=sizes.repeats, at_least=sizes.window)
        walk = replay(subject.trace, policy)
        rows.append(
            {
                "point": f"beta {policy.beta:.3f}",
                "mean exit": float(walk.exit_index.mean()),
                "heads run": float(walk.heads_run.mean()),
                "tally ms": seconds["tally"].median * 1e3,
                "min": seconds["tally"].minimum * 1e3,
                "max": seconds["tally"].maximum * 1e3,
                "target": "< 0.5 ms",
                "replay ms": seconds["replay"].median * 1e3,
                "plain ms": seconds["plain"].median * 1e3,
                "plain / replay": seconds["plain"].median / seconds["replay"].median,
                "plain / tally": seconds["plain"].median / seconds["tally"].median,
            }
        )
    print_table(f"One point of {subject}; tally with the means of {' and '.join(MEASURES)}", rows)
    build = partial(DecisionTable.from_trace, subject.trace, RULE.max_jump)
    milliseconds = interleaved({"table": build}, repeats=sizes.repeats)["table"].median * 1e3
    print(f"  before the first point, once for a trace: {milliseconds:.1f} ms for its table of ratios")
    return [*rows, {"point": "table of ratios", "ms": milliseconds}]


def many_points(sizes: Sizes, options: argparse.Namespace) -> list[Row]:
    """Points per second of a grid, against one tally a point."""
    subject = synthetic(sizes.samples, sizes.exits)
    rows: list[Row] = []
    for count in sizes.grid_betas:
        betas = subject.betas(np.linspace(0.01, 0.99, count))
        policies = [Predictive(float(beta), layer) for layer in range(1, sizes.exits + 1) for beta in betas]
        points, some = len(policies), policies[:: max(1, len(policies) // sizes.tallies)]
        runs: dict[str, Callable[[], object]] = {
            "grid": partial(subject.grid, betas),
            "tallies": lambda some=some: [subject.tally(policy) for policy in some],
        }
        seconds = interleaved(runs, repeats=sizes.repeats, at_least=sizes.window)
        grid, tallies = seconds["grid"], len(some) / seconds["tallies"].median
        rows.append(
            {
                "grid": f"{count} betas x {sizes.exits} start layers",
                "points": points,
                "replay_grid ms": grid.median * 1e3,
                "points/s": points / grid.median,
                "min": points / grid.maximum,
                "max": points / grid.minimum,
                "target": "> 50,000",
                "tallies/s": tallies,
                "x tallies": points / grid.median / tallies,
            }
        )
    print_table(f"Many points of {subject}; the tallies are those of every so many-th point", rows)
    return rows


def whole_front(sizes: Sizes, options: argparse.Namespace) -> list[Row]:
    """Seconds of the exact front over all start layers and betas; and of the sweep behind it, against plain arrays."""
    subject = synthetic(sizes.samples, sizes.exits)
    runs = {", ".join(objectives): partial(subject.front, objectives) for objectives in FRONTS}
    seconds = interleaved(runs, repeats=sizes.repeats)
    rows: list[Row] = []
    for (objectives, target), (name, spread) in zip(FRONTS.items(), seconds.items(), strict=True):
        points = subject.sweep(objectives[1:])
        rows.append(
            {
                "objectives": name,
                "million points swept": points / 1e6,
                "of the front": len(subject.front(objectives)),
                "s": spread.median,
                "min": spread.minimum,
                "max": spread.maximum,
                "million points/s": points / spread.median / 1e6,
                "s for 6.6 million": spread.median * TARGET_POINTS / points,
                "target": target,
            }
        )
    print_table(f"Exact front of {subject}: all start layers and betas", rows)

    against: list[Row] = []
    for samples in sizes.plain_samples:
        smaller = synthetic(samples, sizes.exits)
        # The plain one takes seconds, which need few repeats to stand out.
        both = interleaved({"compiled": smaller.sweep, "plain": smaller.sweep_plainly}, repeats=min(sizes.repeats, 3))
        against.append(
            {
                "samples": samples,
                "points": smaller.sweep(),
                "compiled s": both["compiled"].median,
                "plain s": both["plain"].median,
                "plain / compiled": both["plain"].median / both["compiled"].median,
            }
        )
    print_table("The sweep alone: list, sort and add up all points of all start layers, accuracy and flops", against)
    return rows + against


def against_the_network(sizes: Sizes, options: argparse.Namespace) -> list[Row]:
    """Microseconds per image of early-exit inference, and of the replay of the same images."""
    torch.manual_seed(0)
    settings = NetworkSettings(backbone=sizes.backbone, head=HeadSettings())
    network = build_network(settings, classes=10, image_size=32, channels=3).eval()
    images = torch.randn(sizes.live_images, *network.input_shape)
    layout = faster_layout(network, images[: sizes.live_batch])
    images = images.contiguous(memory_format=LAYOUTS[layout])
    collect = partial(collect_logits, network, images, lambda batch: batch, batch_size=sizes.live_batch)
    logits = collect()
    thresholds = thresholds_from_logits(logits, "mean_max")
    labels = np.random.default_rng(0).integers(0, 10, len(images))
    trace = Trace(logits, labels, thresholds)
    policy = most_spread(trace)
    times = max(1, sizes.samples // len(images))
    repeated = Trace(np.tile(logits, (times, 1, 1)), np.tile(labels, times), thresholds)
    few = images[: sizes.single_images]

    whole = partial(run_live, network, images, policy, thresholds, sizes.live_batch)
    runs: dict[str, tuple[Callable[[], object], int, str | None]] = {
        f"live, {sizes.live_batch} images a batch": (whole, len(images), "> 1,000"),
        "live, one image a batch": (partial(run_live, network, few, policy, thresholds, 1), len(few), "> 100,000"),
        "collecting the trace, once": (collect, len(images), None),
        f"replay, all images {times} times": (partial(replay, repeated, policy), times * len(images), None),
        f"tally, all images {times} times": (partial(tally, repeated, policy), times * len(images), None),
    }
    spreads = interleaved({name: run for name, (run, _, _) in runs.items()}, repeats=sizes.repeats)
    each = {
        name: Spread.of([value / count * 1e6 for value in (spread.minimum, spread.median, spread.maximum)])
        for (name, spread), (_, count, _) in zip(spreads.items(), runs.values(), strict=True)
    }
    *_, replayed, tallied = each.values()
    rows: list[Row] = [
        {
            "run": name,
            "images": count,
            "µs/image": each[name].median,
            "min": each[name].minimum,
            "max": each[name].maximum,
            "x replay": each[name].median / replayed.median,
            "x tally": each[name].median / tallied.median,
            "target": target,
        }
        for name, (_, count, target) in runs.items()
    ]
    print_table(f"Against the live network: {sizes.backbone}, {layout}, untrained; random images; per image", rows)
    same = float((whole().exit_index == replay(trace, policy).exit_index).mean())
    print(f"  beta {policy.beta:.6f} from exit 1 on; live and replayed, {same:.1%} of the images end at the same exit")
    print(f"  images that end at each exit and at the classifier: {' '.join(map(str, tally(trace, policy).stopped))}")
    return rows


def faster_layout(network: MultiExitNetwork, images: Tensor) -> str:
    """The layout in which the network without exits is faster; the network is left in it."""
    medians = {}
    with torch.inference_mode():
        for layout in LAYOUTS:
            run = partial(lay_out(network, layout).classify, images.contiguous(memory_format=LAYOUTS[layout]))
            medians[layout] = interleaved({layout: run}, repeats=3)[layout].median
    best = min(medians, key=lambda layout: medians[layout])
    lay_out(network, best)
    return best


def most_spread(trace: Trace) -> Predictive:
    """Of the quantiles of the ratios as betas, the one that spreads the images most evenly over the exits."""

    def evenness(policy: Predictive) -> float:
        shares = tally(trace, policy).stopped / len(trace.labels)
        return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())

    betas = np.quantile(table_for(trace, RULE).stop, np.linspace(0.02, 0.98, 97))
    return max((Predictive(float(beta)) for beta in betas), key=evenness)


def run_live(
    network: MultiExitNetwork, images: Tensor, policy: Predictive, thresholds: Floats, batch_size: int
) -> Walk:
    """Early-exit inference of all images, batch by batch."""
    parts = [images[batch] for batch in batches(len(images), batch_size)]
    return join_walks([run_policy(network, part, policy, thresholds) for part in parts])


def growth(sizes: Sizes, options: argparse.Namespace) -> list[Row]:
    """Nanoseconds per sample and exit while the samples or the exits grow, and the exponents of that growth."""
    axes = {
        "samples": (sizes.many_samples, [(samples, sizes.exits) for samples in sizes.many_samples]),
        "exits": (sizes.many_exits, [(sizes.samples, exits) for exits in sizes.many_exits]),
    }
    tables: list[Row] = []
    exponents: list[Row] = []
    for axis, (along, shapes) in axes.items():
        seconds, points = scaled(shapes, sizes)
        rows: list[Row] = []
        for place, (samples, exits) in enumerate(shapes):
            rows.append(
                {
                    "trace": f"{samples:,} x {exits}",
                    **{f"{what} ns": seconds[what][place] / (samples * exits) * 1e9 for what in SCALED},
                    "million points": points[place] / 1e6,
                    "exact_front ns/point": seconds["exact_front"][place] / points[place] * 1e9,
                }
            )
        print_table(f"Growth with the {axis}: nanoseconds per sample and exit", rows)
        exponents.append(
            {
                "growth with the": axis,
                **{what: exponent(along, seconds[what]) for what in SCALED},
                "points swept": exponent(along, points),
                "exact_front with these": exponent(points, seconds["exact_front"]),
            }
        )
        tables += rows
    print_table(f"Exponents of the time (1: linear); grids of {SCALED_BETAS} betas and all start layers", exponents)
    return tables + exponents


def scaled(shapes: Sequence[tuple[int, int]], sizes: Sizes) -> tuple[dict[str, list[float]], list[int]]:
    """Median seconds of all work on traces of all shapes (samples, exits), in turns; and the points swept."""
    subjects = [synthetic(*shape) for shape in shapes]
    runs: dict[str, Callable[[], object]] = {}
    for place, subject in enumerate(subjects):
        runs[f"tally {place}"] = partial(subject.tally, subject.policy(0.5))
        runs[f"replay_grid {place}"] = partial(subject.grid, subject.betas(np.linspace(0.01, 0.99, SCALED_BETAS)))
        runs[f"exact_front {place}"] = subject.front
    spreads = interleaved(runs, repeats=min(sizes.repeats, 3), at_least=sizes.window)
    seconds = {what: [spreads[f"{what} {place}"].median for place in range(len(shapes))] for what in SCALED}
    return seconds, [subject.sweep() for subject in subjects]


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """b of seconds = a size^b, by least squares on logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def memory(sizes: Sizes, options: argparse.Namespace) -> list[Row]:
    """Anonymous memory of a process that replays a trace which stays on disk."""
    if not STATUS.exists():
        print("\nMemory: only Linux tells how much of it is anonymous")
        return []
    samples, exits, classes = sizes.disk
    scratch, size = options.scratch or tempfile.gettempdir(), samples * (exits + 1) * classes * 4
    if shutil.disk_usage(scratch).free < 1.05 * size:
        raise SystemExit(f"{scratch} has no room for {size / 1e9:.1f} GB of logits: name a folder by --scratch")
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        file = Path(folder) / "logits.npy"
        write_logits(file, (samples, exits + 1, classes))
        before, rows = in_new_process("memory_of_replay", str(file))
    shape = f"{samples:,} samples x {exits} exits x {classes:,} classes, {size / 1e9:.2f} GB of logits on disk"
    print_table(f"Anonymous memory besides a memory-mapped trace: {shape}", rows)
    table = samples * exits * (RULE.max_jump + 1) * 8 / MEGABYTE
    print(f"  the table of ratios is {table:.0f} MB of these; the process had {before:.0f} MB before")
    return rows


SECTIONS: dict[str, Callable[[Sizes, argparse.Namespace], list[Row]]] = {
    "compile": first_calls,
    "point": one_point,
    "grid": many_points,
    "front": whole_front,
    "live": against_the_network,
    "scaling": growth,
    "memory": memory,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="NAME", help=f"any of {', '.join(SECTIONS)}")
    parser.add_argument("--big", action="store_true", help="memory: 50,000 samples, 10.2 GB of disk (1 GB without)")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="for files that are deleted again")
    add_common_options(parser, quick="a smoke run: two convolutions, 500 samples, 6 exits, 2 repeats")
    options = parser.parse_args()
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # replay's own threads keep to it too
    sizes = sizes_of(options)
    start_quietly(options)

    facts = {**circumstances(), "replay_threads": thread_count(), "numba": metadata.version("numba")}
    print_circumstances(facts)
    results: dict[str, list[Row]] = {}
    for name in options.only or SECTIONS:
        start = time.perf_counter()
        results[name] = SECTIONS[name](sizes, options)
        print(f"  ({name}: medians of at most {sizes.repeats} rounds; {time.perf_counter() - start:.0f} s)", flush=True)
    if options.json:
        print("\n" + json.dumps({"circumstances": facts, "sections": results}))


if __name__ == "__main__":
    main()
