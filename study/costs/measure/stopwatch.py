"""Stopwatches: how long a device works on each part of a network."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import torch

from study.costs.measure.meters import Run


class Stopwatch:
    """Measures time on a CPU, which has done its work when a call returns.

    Args:
        clock: seconds, of a clock that only moves forward.
        sleep: waits for some seconds; the device is idle meanwhile.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self.clock, self.sleep = clock, sleep

    def synchronise(self) -> None:
        """Wait until the device has done all work that it was given; a CPU has done it already."""

    def laps(self, run: Callable[[Run], object]) -> list[float]:
        """Seconds between each mark and the next mark, where ``run(mark)`` calls ``mark()`` several times."""
        times: list[float] = []
        run(lambda: times.append(self.clock()))
        return [after - before for before, after in pairwise(times)]


class CudaStopwatch(Stopwatch):
    """Measures time on a CUDA device, which works through a queue while the host fills the queue.

    A wait at each mark would empty the queue. The device records the marks itself instead, when it reaches them.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def synchronise(self) -> None:
        """Wait until the queue is empty."""
        torch.cuda.synchronize(self.device)

    def laps(self, run: Callable[[Run], object]) -> list[float]:
        """Seconds between the marks, on the device's clock. A mark in an empty queue is recorded at once."""
        stream = torch.cuda.current_stream(self.device)
        events: list[torch.cuda.Event] = []

        def mark() -> None:
            events.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
            events[-1].record(stream)

        self.synchronise()
        run(mark)
        self.synchronise()
        return [before.elapsed_time(after) / 1e3 for before, after in pairwise(events)]
