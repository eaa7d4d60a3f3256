"""What the benchmarks share: where they ran, how they take time, how they print."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import torch
from torch import Tensor, nn

from study.costs.measure import Spread
from study.costs.meters import device_name
from study.networks.multi_exit import MultiExitNetwork
from study.networks.registry import State
from study.networks.runnable import InferenceNetwork
from study.versions import versions

LAYOUTS: dict[str, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels last": torch.channels_last,
}
"""Where the channels of a map lie in memory: each in one piece, or those of a pixel side by side."""


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


def run_classic(network: InferenceNetwork, images: Tensor) -> Tensor:
    """Logits [B, C] of the network without exits: no head runs."""
    state: State = (images,)
    for segment in network.segments:
        state = segment(state)
    return network.classifier(state)


def lay_out(network: MultiExitNetwork, layout: str) -> MultiExitNetwork:
    """The same network, its weights moved to a layout: what it computes has that layout too."""
    # nn.Module.to() is typed without memory_format in the subclass.
    module: nn.Module = network
    module.to(memory_format=LAYOUTS[layout])
    return network


def interleaved(runs: Mapping[str, Callable[[], object]], *, repeats: int, at_least: float = 0.0) -> dict[str, Spread]:
    """Seconds of one call of each run, taken in turns: A B C A B C.

    Whatever else the machine does then hits all of them alike. A first round is not counted.

    Args:
        runs: by name.
        repeats: rounds.
        at_least: seconds; a run is called as often as it takes to fill them, and the mean of those calls counts.
    """
    calls = dict.fromkeys(runs, 1)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(calls[name]):
                run()
            each = (time.perf_counter() - start) / calls[name]
            if round == 0:
                calls[name] = max(1, round_up(at_least / each))
            else:
                seconds[name].append(each)
    return {name: Spread.of(values) for name, values in seconds.items()}


def round_up(value: float) -> int:
    """The next whole number."""
    return int(-(-value // 1))


def print_table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Rows with the same columns, those of numbers aligned to the right."""
    print(f"\n{title}")
    if not rows:
        print("  (nothing)")
        return
    cells = [[_text(value) for value in row.values()] for row in rows]
    header = list(rows[0])
    widths = [max(len(line[column]) for line in [header, *cells]) for column in range(len(header))]
    for line, source in [(header, rows[0]), *zip(cells, rows, strict=True)]:
        aligned = [
            cell.ljust(width) if isinstance(value, str) and column == 0 else cell.rjust(width)
            for column, (cell, width, value) in enumerate(zip(line, widths, source.values(), strict=True))
        ]
        print("  " + "  ".join(aligned).rstrip())


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}" if isinstance(
        value, float
    ) else str(value)
