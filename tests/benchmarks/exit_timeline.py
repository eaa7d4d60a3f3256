"""Where the time of an exported model goes, part by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from study.arrays import Booleans
from study.deploy.early_exit import EarlyExit
from study.deploy.part_queues import Network, PartQueues, Rows

PART, HEAD, DECISION, GATHERING, ALL = range(5)


class TimedQueues(PartQueues):
    """Takes the time of everything behind each part.

    Attributes:
        seconds: ``[parts, 5]``.
        images: ``[parts]``, that ran.
        calls: ``[parts]``.
    """

    def __init__(self, network: Network, batch_size: int) -> None:
        count = len(network.parts)
        self.seconds, self.images, self.calls = np.zeros((count, 5)), np.zeros(count), np.zeros(count)
        self._now = 0

        def timed(run: Callable[..., Any], what: int) -> Callable[..., Any]:
            return lambda *state: self._timed(what, run, *state)

        parts = [timed(part, PART) for part in network.parts]
        heads = {exit: timed(head, HEAD) for exit, head in network.heads.items()}
        super().__init__(replace(network, parts=parts, heads=heads), batch_size)

    def _timed(self, what: int, run: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = run(*arguments)
        self.seconds[self._now, what] += time.perf_counter() - start
        return result

    def _run(self, number: int) -> list[Rows]:
        self._now = number
        self.calls[number] += 1
        found: list[Rows] = self._timed(ALL, super()._run, number)
        return found

    def _take(self, number: int) -> tuple[tuple[Tensor, ...], Rows]:
        state, rows = self._timed(GATHERING, super()._take, number)
        self.images[number] += len(rows)
        return state, rows

    def _at(self, tensor: Tensor, chosen: Booleans) -> Tensor:
        found: Tensor = self._timed(GATHERING, super()._at, tensor, chosen)
        return found

    def _decide(self, who: Rows, logits: Tensor, exit: int) -> None:
        self._timed(DECISION, super()._decide, who, logits, exit)


def timeline(model: EarlyExit, batches: Sequence[Tensor], repeats: int) -> list[dict[str, object]]:
    """A row for each part that ran: milliseconds for all these batches, the medians of some rounds."""
    rounds = []
    for _ in range(repeats + 1):
        queues = TimedQueues(model.network, len(batches[0]))
        for batch in batches:
            queues.add(batch)
        queues.flush()
        rounds.append(queues.seconds)
    milliseconds = np.median(rounds[1:], axis=0) * 1e3
    ends = [f"to exit {exit}" for exit in model.tried] + ["to the classifier"]
    rows = [
        _row(end, count, images, row)
        for end, count, images, row in zip(ends, queues.calls, queues.images, milliseconds, strict=False)
        if count
    ]
    return [*rows, _row("all", queues.calls.sum(), queues.images[0], milliseconds.sum(axis=0))]


def _row(name: str, calls: float, images: float, milliseconds: Any) -> dict[str, object]:
    part, head, decision, gathering, whole = map(float, milliseconds)
    return {
        "part": name,
        "batches": int(calls),
        "images": int(images),
        "part, ms": part,
        "head, ms": head,
        "decision, ms": decision,
        "gather, ms": gathering,
        "other Python, ms": whole - part - head - decision - gathering,
        "of all": f"{part / whole:.0%} part",
    }
