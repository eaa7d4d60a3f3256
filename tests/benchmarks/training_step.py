"""Where the time of a training step goes, and what a device gives to several trials at once.

    python tests/benchmarks/training_step.py                              # VGG-19 at full width, 128 images a batch
    python tests/benchmarks/training_step.py --device cuda --trials 1 2 4

For each mode: the share of each kind of operation in the time that the device computes. On a GPU steps run as one CUDA
graph; beside their rate stands that of plain steps, whose kernels the shares are of, and how much of a plain step's
time any kernel runs. With ``--trials`` so many processes then train networks of their
own at the same time, as trials of phase 1 do that share a device; images per second are those of all together.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from report import (
    add_common_options,
    add_network_options,
    circumstances,
    print_circumstances,
    print_table,
    start_quietly,
    synthetic_info,
)
from torch import multiprocessing
from torch.profiler import ProfilerActivity, profile

from study.networks.multi_exit import build_network
from study.networks.settings import HeadSettings, NetworkSettings
from study.training.loop import Trainer, fast_precision, forbid_tf32, pick_device
from study.training.settings import TrainingSettings

CLASSES = 10
KINDS = {
    "convolution": ("conv",),
    "batch norm": ("batch_norm", "batchnorm"),
    "optimizer": ("optimizer", "foreach", "fused_adam", "addcdiv", "lerp"),
    "ReLU, pooling": ("relu", "threshold", "pool"),
    "matrix product": ("mm", "linear", "gemm"),
    "loss": ("softmax", "nll", "kl_div", "cross_entropy"),
    "sigmoid": ("sigmoid",),
    "copies, layout": ("copy", "clone", "to_copy", "cat", "stack", "contiguous"),
}
"""Kind -> parts of the names of its operations; the first that fits counts."""


def make_trainer(options: argparse.Namespace, mode: str) -> tuple[Trainer, torch.Tensor, torch.Tensor]:
    """A trainer with random images and labels for ``--batches`` batches."""
    device = pick_device(options.device)
    forbid_tf32()
    torch.manual_seed(0)
    size = options.image_size
    info = synthetic_info(size, CLASSES)
    settings = NetworkSettings(
        backbone=options.backbone,
        width=options.width,
        head=HeadSettings(kind=options.head, conv_channels=options.conv_channels),
    )
    network = build_network(settings, classes=CLASSES, image_size=size, channels=3).to(device)
    training = TrainingSettings(
        mode=mode, batch_size=options.batch_size, optimizer="adamw", precision=fast_precision(device)
    )  # type: ignore[arg-type]
    count = options.batch_size * options.batches
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, device=device)
    return Trainer(network, training, info), images, torch.randint(0, CLASSES, (count,), device=device)


def anatomy(options: argparse.Namespace, mode: str) -> dict[str, object]:
    """Shares of the kinds of operations in an epoch."""
    trainer, images, labels = make_trainer(options, mode)
    cuda = images.device.type == "cuda"
    rates = {}
    for captures in (True, False) if cuda else (False,):
        trainer.captures = captures
        trainer.run_epoch(images, labels, 1)
        started = time.perf_counter()
        trainer.run_epoch(images, labels, 2)  # ends with the loss on the host
        rates[captures] = len(images) / (time.perf_counter() - started)
    # Of the plain step: a graph is one operation to the profiler.
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
        trainer.run_epoch(images, labels, 3)
    spent: Counter[str] = Counter()
    for event in profiler.key_averages():
        # On a GPU an operation and its kernels are listed, the same time in both: operations alone count.
        if event.key.startswith("aten::"):
            spent[_kind(event.key)] += event.self_device_time_total if cuda else event.self_cpu_time_total
    total = sum(spent.values())
    row: dict[str, object] = {"mode": mode, "images/s": max(rates.values())}
    if cuda:
        row["without a graph"] = rates[False]
        row["kernels run then"] = f"{total / 1e6 * rates[False] / len(images):.0%}"
    return row | {kind: f"{spent[kind] / total:.0%}" for kind in (*KINDS, "other")}


def _kind(operation: str) -> str:
    name = operation.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "other")


def at_once(options: argparse.Namespace, mode: str, trials: int) -> float:
    """Images per second of so many processes together."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(trials), context.Queue()
    processes = [context.Process(target=_train, args=(options, mode, trials, barrier, results)) for _ in range(trials)]
    for process in processes:
        process.start()
    rates = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    return sum(rates)


def _train(options: argparse.Namespace, mode: str, trials: int, barrier: Any, results: Any) -> None:
    torch.set_num_threads(options.threads or max(1, (os.cpu_count() or 1) // trials))  # as trials share the cores
    trainer, images, labels = make_trainer(options, mode)
    trainer.run_epoch(images, labels, 1)
    barrier.wait()
    started, epochs = time.perf_counter(), 0
    while time.perf_counter() - started < options.seconds:
        epochs += 1
        trainer.run_epoch(images, labels, 1 + epochs)
    results.put(epochs * len(images) / (time.perf_counter() - started))


def table_at_once(options: argparse.Namespace) -> list[dict[str, object]]:
    """One row a mode."""
    rows: list[dict[str, object]] = []
    for mode in options.modes:
        row: dict[str, object] = {"mode": mode}
        rates = {trials: at_once(options, mode, trials) for trials in options.trials}
        first = options.trials[0]
        for trials, rate in rates.items():
            row |= {
                f"{trials} at once, images/s": rate,
                f"{trials} against {first}": rate / rates[first],
            }
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser, quick="a smoke run: VGG-11, an eighth of its width", repeats=False)
    add_network_options(parser)
    parser.add_argument("--modes", nargs="+", default=["original", "exits", "joint"])
    parser.add_argument("--trials", nargs="*", type=int, default=[], help="so many trials at once")
    parser.add_argument("--seconds", type=float, default=5.0, help="of training several at once")
    options = parser.parse_args(arguments)
    if options.quick:
        options.backbone, options.width, options.batch_size = "vgg11", 0.125, 32
    start_quietly(options)
    facts = circumstances() | {
        name: getattr(options, name) for name in ("device", "backbone", "width", "batch_size", "head")
    }
    print_circumstances(facts)
    shares = [anatomy(options, mode) for mode in options.modes]
    print_table("where a training step spends its time", shares)
    together = table_at_once(options) if options.trials else []
    if together:
        print_table("several trials at once", together)
    if options.json:
        print(json.dumps({**facts, "shares": shares, "at_once": together}))


if __name__ == "__main__":
    main()
