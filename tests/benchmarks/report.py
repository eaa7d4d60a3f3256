"""What the benchmarks share: where they ran, how they take time, how they print."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from study.costs.measure.meters import device_name
from study.costs.measure.profile import Spread
from study.data.settings import DataInfo
from study.networks.inference_network import InferenceNetwork
from study.networks.multi_exit import MultiExitNetwork
from study.networks.registry import State
from study.networks.settings import HeadSettings
from study.storage.versions import versions

sys.path.append(str(Path(__file__).parents[1]))  # the folder of support

LAYOUTS: dict[str, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels last": torch.channels_last,
}
"""Where the channels of a map lie in memory: each in one piece, or those of a pixel side by side."""


SMALL_HEADS = HeadSettings(kind="conv", conv_channels=32, conv_side=4)
"""Exit heads that cost little beside a quarter of a VGG-19."""


def add_common_options(parser: argparse.ArgumentParser, *, quick: str, repeats: bool = True) -> None:
    """Options of every benchmark; ``quick`` says what a smoke run is, ``repeats`` whether anything is repeated."""
    if repeats:
        parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch (default: as many as it takes by itself)")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end as well")
    parser.add_argument("--quick", action="store_true", help=quick)


def start_quietly(options: argparse.Namespace) -> None:
    """Set the threads, and keep off the screen what compilers and exporters tell of their own insides."""
    # A network as small as that of a smoke run only loses by a second thread.
    threads = options.threads or (1 if options.quick else None)
    if threads:
        torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    logging.getLogger("torch").setLevel(logging.ERROR)


def circumstances() -> dict[str, object]:
    """Hardware, versions, date, and how busy the machine is already: what seconds mean nothing without."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": device_name(torch.device("cpu")),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_of_the_last_minute": round(os.getloadavg()[0], 2),
        **versions(),
    }


def print_circumstances(facts: Mapping[str, object]) -> None:
    """One fact a line."""
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):>24}  {value}")


def register_tiny() -> str:
    """Register the tests' network of two convolutions, and give its name."""
    from support.tiny_network import TINY

    return TINY


def synthetic_info(image_size: int, classes: int) -> DataInfo:
    """Of random colour images, augmented as CIFAR's are."""
    return DataInfo(
        name="synthetic",
        image_size=image_size,
        channels=3,
        class_names=tuple(map(str, range(classes))),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        flip=True,
        crop_padding=image_size // 8,
        digest="",
        settings={},
    )


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Which network is trained, on which batches, where."""
    parser.add_argument("--backbone", default="vgg19")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--batches", type=int, default=2, help="of one timed run")
    parser.add_argument("--head", default="bof")
    parser.add_argument("--conv-channels", type=int, default=64, help="of conv and separable heads")
    parser.add_argument("--device", default="auto")


def run_classic(network: InferenceNetwork, images: Tensor) -> Tensor:
    """Logits [B, C] of the network without exits: no head runs."""
    state: State = (images,)
    for segment in network.segments:
        state = segment(state)
    return network.classifier(state)


def answers_of(run: Callable[[Tensor], Any], batches: Sequence[Tensor]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Answers [N] of a whole network on the host; ``run`` gives logits, alone or as the first of several results."""
    with torch.inference_mode():
        found = [run(batch) for batch in batches]
        logits = [one[0] if isinstance(one, tuple) else one for one in found]
        return np.concatenate([one.float().numpy().argmax(axis=1) for one in logits])


def lay_out(network: MultiExitNetwork, layout: str) -> MultiExitNetwork:
    """The same network, its weights moved to a layout: what it computes has that layout too."""
    return network.to(memory_format=LAYOUTS[layout])


def interleaved(
    runs: Mapping[str, Callable[[], object]], *, repeats: int, at_least: float = 0.0, pause: float = 0.0
) -> dict[str, Spread]:
    """Seconds of one call of each run, taken in turns: A B C A B C.

    Whatever else the machine does then hits all of them alike. A first round is not counted.

    Args:
        runs: by name.
        repeats: rounds.
        pause: seconds before each run.
        at_least: seconds; a run is called as often as it takes to fill them, and the mean of those calls counts.
    """
    calls = dict.fromkeys(runs, 1)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round in range(repeats + 1):
        for name, run in runs.items():
            time.sleep(pause)
            start = time.perf_counter()
            for _ in range(calls[name]):
                run()
            each = (time.perf_counter() - start) / calls[name]
            if round == 0:
                calls[name] = max(1, ceil(at_least / each))
            else:
                seconds[name].append(each)
    return {name: Spread.of(values) for name, values in seconds.items()}


def print_table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Rows with the same columns; the first one aligned to the left, the others to the right."""
    print(f"\n{title}")
    if not rows:
        return
    lines = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        aligned = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([f"  {first.ljust(widths[0])}", *aligned]))


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)
