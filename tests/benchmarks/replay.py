"""How long replay takes: one operating point, grids, exact fronts; beside plain arrays and beside the live network.

    python tests/benchmarks/replay.py
    python tests/benchmarks/replay.py --only front scaling
    python tests/benchmarks/replay.py --only memory --big --scratch /data/scratch

What is compared is timed in turns in one process, so that ratios hold even where seconds do not. Logits are random:
labels get surer exit by exit, and no two ratios are meant to be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module, metadata
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeAlias
from unittest.mock import patch

import numpy as np
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
    start_quietly,
)
from torch import Tensor

from study import Costs, Predictive, Trace, Walk, exact_front, replay, replay_grid, tally
from study.inference import join_walks, run_policy
from study.networks import HeadSettings, MultiExitNetwork, NetworkSettings, build_network
from study.policies import Floats, thresholds_from_logits
from study.sweeps import Sweep, changes, changes_by_walking
from study.threads import thread_count
from study.trace import DecisionTable, batches, collect_logits
from study.walks import Tally, walk_samples

Row: TypeAlias = dict[str, object]
RULE = Predictive(beta=1.0)
MEASURES = ("flops", "energy")
TARGET_POINTS = 6.6e6
"""Distinct operating points that the targets of the exact front speak of."""
TARGETS = {"point": "< 0.5 ms", "grid": "> 50,000", 2: "< 1 s", 3: "< 3 s", "batched": "> 1,000", "single": "> 100,000"}
QUANTILES = (0.2, 0.5, 0.8)
"""Of the ratios, as betas: most samples stop at early, middle and late exits."""
MEGABYTE = 1e6


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything."""

    backbone: str = "vgg19"
    samples: int = 10_000
    exits: int = 20
    grid_betas: tuple[int, ...] = (10, 100, 1000)
    points_one_by_one: int = 200
    """Of a grid, spread over it: so many are replayed one at a time."""
    plain_samples: tuple[int, ...] = (500, 10_000)
    live_images: int = 512
    live_batch: int = 256
    single_images: int = 32
    many_samples: tuple[int, ...] = (1_000, 3_000, 10_000, 30_000, 100_000)
    many_exits: tuple[int, ...] = (5, 10, 20, 35, 50)
    disk: tuple[int, int, int] = (5_000, 50, 1_000)
    """Samples, exits and classes of the trace that stays on disk."""
    window: float = 0.05
    """Seconds that short calls are repeated for."""
    repeats: int = 5


BIG_DISK = (50_000, 50, 1_000)


def compile_times(sizes: Sizes, options: argparse.Namespace) -> list[Row]:
    """First calls in a process that compiles, and in one that finds what that one left on disk."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder, patch.dict(os.environ, NUMBA_CACHE_DIR=folder):
        compiled, cached = in_new_process(first_calls), in_new_process(first_calls)
    names = [*compiled, "all"]
    compiled["all"], cached["all"] = sum(compiled.values()), sum(cached.values())
    rows: list[Row] = [{"first call": name, "compiled s": compiled[name], "cached s": cached[name]} for name in names]
    print_table("First call in a process: compiled, and from the folder where that was kept", rows)
    return rows


def one_point(sizes: Sizes, options: argparse.Namespace) -> list[Row]:
    """Milliseconds of one operating point, all in turns."""
    subject = synthetic(sizes.samples, sizes.exits)
    rows: list[Row] = []
    for quantile in QUANTILES:
        policy = subject.policy(quantile)
        runs: dict[str, Callable[[], object]] = {
            "tally": partial(subject.count, policy),
            "replay": partial(replay, subject.trace, policy),
            "plain": partial(subject.walk_plainly, policy),
        }
        seconds = interleaved(runs, repeats=sizes.repeats, at_least=sizes.window)
        counted, _ = subject.count(policy)
        rows.append(
            {
                "point": f"beta {policy.beta:.3f}",
                "mean exit": _mean_exit(counted),
                "heads run": float(counted.tried.sum() / counted.samples),
                "tally ms": seconds["tally"].median * 1e3,
                "min": seconds["tally"].minimum * 1e3,
                "max": seconds["tally"].maximum * 1e3,
                "target": TARGETS["point"],
                "replay ms": seconds["replay"].median * 1e3,
                "plain ms": seconds["plain"].median * 1e3,
                "plain / replay": seconds["plain"].median / seconds["replay"].median,
                "plain / tally": seconds["plain"].median / seconds["tally"].median,
            }
        )
    build = partial(DecisionTable.from_trace, subject.trace, RULE.max_jump)
    table = interleaved({"table": build}, repeats=sizes.repeats)["table"].median
    print_table(f"One point, {_size(subject)}; tally with the means of {' and '.join(MEASURES)}", rows)
    print(f"  before the first point: {table * 1e3:.1f} ms for the table of ratios, once for a trace")
    return [*rows, {"point": "table of ratios", "ms": table * 1e3}]


def many_points(sizes: Sizes, options: argparse.Namespace) -> list[Row]:
    """Points per second of a grid, against one tally a point."""
    subject = synthetic(sizes.samples, sizes.exits)
    stop = subject.trace.table_for(RULE).stop
    rows: list[Row] = []
    for count in sizes.grid_betas:
        betas = np.quantile(stop, np.linspace(0.01, 0.99, count))
        points = [Predictive(float(beta), layer) for layer in range(1, sizes.exits + 1) for beta in betas]
        chosen = points[:: max(1, len(points) // sizes.points_one_by_one)]
        runs: dict[str, Callable[[], object]] = {
            "grid": partial(subject.grid, betas),
            "one by one": lambda chosen=chosen: [subject.count(policy) for policy in chosen],
        }
        seconds = interleaved(runs, repeats=sizes.repeats, at_least=sizes.window)
        one_by_one = len(chosen) / seconds["one by one"].median
        rows.append(
            {
                "grid": f"{count} betas x {sizes.exits} start layers",
                "points": len(points),
                "replay_grid ms": seconds["grid"].median * 1e3,
                "points/s": len(points) / seconds["grid"].median,
                "min": len(points) / seconds["grid"].maximum,
                "max": len(points) / seconds["grid"].minimum,
                "target": TARGETS["grid"],
                "tallies/s": one_by_one,
                "x tallies": len(points) / seconds["grid"].median / one_by_one,
            }
        )
    print_table(f"Many points, {_size(subject)}; tallies: at most some {sizes.points_one_by_one} of the points", rows)
    return rows


def whole_front(sizes: Sizes, options: argparse.Namespace) -> list[Row]:
    """Seconds of the exact front over all start layers and betas; and of the sweep behind it, against plain arrays."""
    subject = synthetic(sizes.samples, sizes.exits)
    fronts = {2: ("accuracy", "flops"), 3: ("accuracy", "flops", "energy")}
    runs = {str(count): partial(subject.front, objectives) for count, objectives in fronts.items()}
    seconds = interleaved(runs, repeats=sizes.repeats)
    rows: list[Row] = []
    for count, objectives in fronts.items():
        spread, points = seconds[str(count)], subject.points(objectives[1:])
        rows.append(
            {
                "objectives": ", ".join(objectives),
                "points swept": f"{points:,}",
                "points of the front": len(subject.front(objectives)),
                "s": spread.median,
                "min": spread.minimum,
                "max": spread.maximum,
                "million points/s": points / spread.median / 1e6,
                "s for 6.6 million": spread.median * TARGET_POINTS / points,
                "target": TARGETS[count],
            }
        )
    print_table(f"Exact front, {_size(subject)}, all start layers and betas", rows)

    plain_rows: list[Row] = []
    for samples in sizes.plain_samples:
        smaller = synthetic(samples, sizes.exits)
        plain_runs = {"compiled": partial(sweep, smaller), "plain": partial(sweep_plainly, smaller)}
        # The plain one takes seconds, which need no repeats to stand out.
        spreads = interleaved(plain_runs, repeats=min(sizes.repeats, 3))
        plain_rows.append(
            {
                "sweep": f"{samples:,} samples",
                "points": f"{sweep(smaller):,}",
                "plain points": f"{sweep_plainly(smaller):,}",
                "compiled s": spreads["compiled"].median,
                "plain s": spreads["plain"].median,
                "plain / compiled": spreads["plain"].median / spreads["compiled"].median,
            }
        )
    print_table("The sweep alone (list, sort and add up all start layers), accuracy and flops", plain_rows)
    return rows + plain_rows


def sweep(subject: Subject) -> int:
    """List, sort and add up the points of all start layers; how many there are."""
    return subject.points()


def sweep_plainly(subject: Subject) -> int:
    """The same, walked in array operations."""
    whole = Sweep(subject.trace, subject.costs, RULE)
    layers = range(1, subject.trace.exit_count + 1)
    return sum(len(changes_by_walking(whole, ("flops",), layer).add_up().right) for layer in layers)


def against_the_network(sizes: Sizes, options: argparse.Namespace) -> list[Row]:
    """Microseconds per image of early-exit inference and of the replay of the same images, all in turns."""
    torch.manual_seed(0)
    settings = NetworkSettings(backbone=sizes.backbone, head=HeadSettings())
    network = build_network(settings, classes=10, image_size=32, channels=3).eval()
    images = torch.randn(sizes.live_images, *network.input_shape)
    layout = faster_layout(network, images[: sizes.live_batch])
    images = images.contiguous(memory_format=LAYOUTS[layout])
    logits = collect_logits(network, images, _as_they_are, batch_size=sizes.live_batch)
    thresholds = thresholds_from_logits(logits, "mean_max")
    labels = np.random.default_rng(0).integers(0, 10, len(images))
    own = Trace(logits, labels, thresholds)
    policy, spread_of_exits = most_spread(own)
    times = max(1, sizes.samples // len(images))
    repeated = Trace(np.tile(logits, (times, 1, 1)), np.tile(labels, times), thresholds)

    few = images[: sizes.single_images]
    runs: dict[str, Callable[[], object]] = {
        "batched": partial(run_live, network, images, policy, thresholds, sizes.live_batch),
        "single": partial(run_live, network, few, policy, thresholds, 1),
        "trace": partial(collect_logits, network, images, _as_they_are, batch_size=sizes.live_batch),
        "replay": partial(replay, repeated, policy),
        "tally": partial(tally, repeated, policy),
    }
    counts = {"batched": len(images), "single": len(few), "trace": len(images)}
    names = {
        "batched": f"live, {sizes.live_batch} images a batch",
        "single": "live, one image a batch",
        "trace": "collecting the trace, once",
    }
    seconds = interleaved(runs, repeats=sizes.repeats)
    each = {run: spread.median / counts.get(run, len(repeated.labels)) for run, spread in seconds.items()}
    rows: list[Row] = []
    for run in runs:
        count = counts.get(run, len(repeated.labels))
        rows.append(
            {
                "run": names.get(run, f"{run}, the same images {times} times"),
                "images": f"{count:,}",
                "µs/image": each[run] * 1e6,
                "min": seconds[run].minimum / count * 1e6,
                "max": seconds[run].maximum / count * 1e6,
                "x replay": each[run] / each["replay"],
                "x tally": each[run] / each["tally"],
                "target": TARGETS.get(run),
            }
        )
    title = f"{sizes.backbone} ({layout}, untrained, random images), per image; {policy}"
    print_table(f"Against the live network: {title}", rows)
    live, replayed = run_live(network, images, policy, thresholds, sizes.live_batch), replay(own, policy)
    same = float((live.exit_index == replayed.exit_index).mean())
    print(f"  images that stop at each exit and at the classifier: {' '.join(map(str, spread_of_exits))}")
    print(f"  live and replayed, the same exit for {same:.1%} of the images")
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


def most_spread(trace: Trace) -> tuple[Predictive, list[int]]:
    """Of the quantiles of the ratios as betas, the one that spreads the images most evenly over the exits."""
    stop = trace.table_for(RULE).stop
    best: tuple[float, Predictive, list[int]] | None = None
    for beta in np.quantile(stop, np.linspace(0.02, 0.98, 97)):
        policy = Predictive(float(beta))
        stopped = tally(trace, policy).stopped
        shares = stopped[stopped > 0] / stopped.sum()
        evenness = float(-(shares * np.log(shares)).sum())
        if best is None or evenness > best[0]:
            best = evenness, policy, stopped.tolist()
    assert best is not None
    return best[1], best[2]


def run_live(
    network: MultiExitNetwork, images: Tensor, policy: Predictive, thresholds: Floats, batch_size: int
) -> Walk:
    """Early-exit inference of all images, batch by batch."""
    parts = [images[batch] for batch in batches(len(images), batch_size)]
    return join_walks([run_policy(network, part, policy, thresholds) for part in parts])


def growth(sizes: Sizes, options: argparse.Namespace) -> list[Row]:
    """Nanoseconds per sample and exit while samples and exits grow; the exponents of that growth."""
    axes = {
        "samples": [(samples, sizes.exits) for samples in sizes.many_samples],
        "exits": [(sizes.samples, exits) for exits in sizes.many_exits],
    }
    rows: list[Row] = []
    exponents: list[Row] = []
    for axis, shapes in axes.items():
        found = grow(shapes, sizes)
        print_table(f"Growth with the {axis}: nanoseconds per sample and exit", found)
        along = np.array(shapes, dtype=np.float64)[:, 0 if axis == "samples" else 1]
        whole = np.array([samples * exits for samples, exits in shapes])
        by_axis = {what: exponent(along, _column(found, f"{what} ns") * whole) for what in WORK}
        front = _column(found, "exact_front ns") * whole
        exponents.append(
            {
                "grows with the": axis,
                **by_axis,
                "points swept": exponent(along, _column(found, "million points")),
                "exact_front over points": exponent(_column(found, "million points"), front),
            }
        )
        rows += found
    print_table("Exponents of that growth (1: linear)", exponents)
    return rows + exponents


WORK = ("tally", "replay_grid", "exact_front")


def grow(shapes: Sequence[tuple[int, int]], sizes: Sizes) -> list[Row]:
    """All work on all shapes (samples, exits), in turns."""
    subjects = {shape: synthetic(*shape) for shape in shapes}
    runs: dict[str, Callable[[], object]] = {}
    for shape, subject in subjects.items():
        betas = np.quantile(subject.trace.table_for(RULE).stop, np.linspace(0.01, 0.99, 100))
        runs[f"tally {shape}"] = partial(subject.count, subject.policy(0.5))
        runs[f"replay_grid {shape}"] = partial(subject.grid, betas)
        runs[f"exact_front {shape}"] = subject.front
    seconds = interleaved(runs, repeats=min(sizes.repeats, 3), at_least=sizes.window)
    rows: list[Row] = []
    for shape, subject in subjects.items():
        samples, exits = shape
        nanoseconds = {f"{what} ns": seconds[f"{what} {shape}"].median * 1e9 / (samples * exits) for what in WORK}
        points = subject.points()
        rows.append(
            {
                "trace": f"{samples:,} x {exits}",
                **nanoseconds,
                "million points": points / 1e6,
                "exact_front ns/point": seconds[f"exact_front {shape}"].median * 1e9 / points,
            }
        )
    return rows


def exponent(sizes: Floats, seconds: Floats) -> float:
    """b of seconds = a size^b, by least squares on logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def memory(sizes: Sizes, options: argparse.Namespace) -> list[Row]:
    """Anonymous memory of a process that replays a trace which stays on disk."""
    if not STATUS.exists():
        print("\nMemory: only Linux tells how much of it is anonymous")
        return []
    samples, exits, classes = sizes.disk
    bytes_on_disk = samples * (exits + 1) * classes * 4
    scratch = options.scratch or tempfile.gettempdir()
    if shutil.disk_usage(scratch).free < 1.05 * bytes_on_disk:
        raise SystemExit(f"{scratch}: the trace needs {bytes_on_disk / 1e9:.1f} GB: name another folder by --scratch")
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        file = Path(folder) / "logits.npy"
        write_logits(file, (samples, exits + 1, classes))
        before, rows = in_new_process(build_from_disk, file)
    shape = f"{samples:,} samples x {exits} exits x {classes:,} classes, {bytes_on_disk / 1e9:.2f} GB on disk"
    print_table(f"Memory-mapped trace of {shape}: anonymous memory", rows)
    table = samples * exits * (RULE.max_jump + 1) * 8
    print(f"  the table of ratios itself: {table / MEGABYTE:.0f} MB; the process before all that: {before:.0f} MB")
    return rows


STATUS = Path("/proc/self/status")


def write_logits(file: Path, shape: tuple[int, int, int]) -> None:
    """The same random block again and again: what the numbers are changes neither memory nor time."""
    mapped = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
    block = np.random.default_rng(0).standard_normal((min(100, shape[0]), *shape[1:]), dtype=np.float32)
    for batch in batches(shape[0], len(block)):
        mapped[batch] = block[: batch.stop - batch.start]
    mapped.flush()


def _as_they_are(batch: Tensor) -> Tensor:
    return batch


def _mean_exit(counted: Tally) -> float:
    return float(counted.stopped @ np.arange(1, len(counted.stopped) + 1) / counted.samples)


def _size(subject: Subject) -> str:
    samples, columns, classes = subject.trace.logits.shape
    return f"{samples:,} samples x {columns - 1} exits x {classes} classes"


def _column(rows: Sequence[Row], name: str) -> Floats:
    return np.array([row[name] for row in rows], dtype=np.float64)


SECTIONS: dict[str, Callable[[Sizes, argparse.Namespace], list[Row]]] = {
    "compile": compile_times,
    "point": one_point,
    "grid": many_points,
    "front": whole_front,
    "live": against_the_network,
    "scaling": growth,
    "memory": memory,
}


def sizes_of(options: argparse.Namespace) -> Sizes:
    """Those of a full run or of a smoke run."""
    if not options.quick:
        return Sizes(repeats=options.repeats, disk=BIG_DISK if options.big else Sizes.disk)
    return Sizes(
        backbone=register_tiny(),
        samples=500,
        exits=6,
        grid_betas=(10, 100),
        points_one_by_one=20,
        plain_samples=(100,),
        live_images=16,
        live_batch=8,
        single_images=2,
        many_samples=(100, 200, 400),
        many_exits=(3, 6, 9),
        disk=(100, 10, 100),
        window=0.002,
        repeats=2,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="NAME", help=f"any of {', '.join(SECTIONS)}")
    parser.add_argument("--big", action="store_true", help="memory: 50,000 samples, which takes 10.2 GB of disk")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where files go until the end of their section")
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
        print(f"  ({name}: {time.perf_counter() - start:.0f} s, median of {sizes.repeats} rounds)", flush=True)
    if options.json:
        print("\n" + json.dumps({"circumstances": facts, **results}))


if __name__ == "__main__":
    main()
