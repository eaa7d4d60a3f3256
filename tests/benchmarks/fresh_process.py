"""What is measured in a process of its own, where nothing has been compiled or allocated yet."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
from synthetic_trace import RULE, synthetic

from study.arrays import batches
from study.policies.decision_table import table_for
from study.policies.replay import replay, tally
from study.traces.trace import Trace

STATUS = Path("/proc/self/status")
MEGABYTE = 1e6


def in_new_process(task: str, *arguments: str) -> Any:
    """What one of the functions of :data:`TASKS` returns there."""
    command = [sys.executable, __file__, task, *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def first_calls() -> dict[str, float]:
    """Seconds of the first call of everything that is compiled, on a trace that needs no time by itself."""
    subject = synthetic(16, 4)
    steps: dict[str, Callable[[], object]] = {
        "import of the kernels": lambda: import_module("study.fronts.kernels"),
        "table of ratios": lambda: table_for(subject.trace, RULE),
        "replay": lambda: replay(subject.trace, RULE),
        "tally": lambda: tally(subject.trace, RULE),
        "replay_grid": lambda: subject.grid(np.array([1.0, 2.0])),
        "exact_front": subject.front,
    }
    seconds = {}
    for name, step in steps.items():
        start = time.perf_counter()
        step()
        seconds[name] = time.perf_counter() - start
    return seconds


def write_logits(file: Path, shape: tuple[int, int, int]) -> None:
    """The same random block again and again: what the numbers are changes neither memory nor time."""
    mapped = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
    block = np.random.default_rng(0).standard_normal((min(100, shape[0]), *shape[1:]), dtype=np.float32)
    for batch in batches(shape[0], len(block)):
        mapped[batch] = block[: batch.stop - batch.start]


def memory_of_replay(file: str) -> tuple[float, list[dict[str, object]]]:
    """Anonymous megabytes before, and in addition after each step from logits on disk to an operating point."""
    logits = np.load(file, mmap_mode="r")
    samples, columns, classes = logits.shape
    labels = np.random.default_rng(0).integers(0, classes, samples)
    thresholds = np.full(columns - 1, 3.0)
    # Compilers allocate as well.
    tally(Trace(logits[:16], labels[:16], thresholds), RULE)
    before = anonymous_bytes()
    made: list[Trace] = []
    steps: dict[str, Callable[[], object]] = {
        "Trace, every logit checked": lambda: made.append(Trace(logits, labels, thresholds)),
        "table of ratios": lambda: table_for(made[0], RULE),
        "answers, and which are right": lambda: made[0].right,
        "tally": lambda: tally(made[0], RULE),
    }
    rows: list[dict[str, object]] = []
    for name, step in steps.items():
        start = time.perf_counter()
        with Peak() as peak:
            step()
        seconds, after = time.perf_counter() - start, anonymous_bytes()
        peak_megabytes, kept = (max(peak.bytes, after) - before) / MEGABYTE, (after - before) / MEGABYTE
        rows.append({"step": name, "s": seconds, "peak MB": peak_megabytes, "kept MB": kept})
    return before / MEGABYTE, rows


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


class Peak:
    """The largest anonymous memory while this is entered, by a thread that looks every other millisecond."""

    def __enter__(self) -> Peak:
        self.bytes = anonymous_bytes()
        self._over = Event()
        self._watcher = Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self.bytes = max(self.bytes, anonymous_bytes())


TASKS: dict[str, Callable[..., object]] = {"first_calls": first_calls, "memory_of_replay": memory_of_replay}

if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](*sys.argv[2:])))
