"""Images of concurrent requests in common batches: a thread collects them for a short time, then runs the model."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from threading import Condition, Thread
from typing import TypeAlias

import numpy as np
import torch

from search_spaces.words import short
from study.data.pixels import Pixels
from study.deploy.early_exit import EarlyExit
from study.deploy.part_queues import Rows, in_order
from study.deploy.serving.limits import RefusedError


@dataclass(frozen=True)
class Answer:
    """What the model says of an image."""

    name: str
    number: int
    """Of the class."""
    exit: int
    confidence: float
    flops: float


@dataclass(frozen=True)
class _Waiting:
    square: Pixels
    answer: Future[Answer]
    since: float


Told: TypeAlias = Callable[[Sequence[Answer], int], None]
"""Gets the answers of images that stopped together, and the number of images that entered before."""


class Batcher:
    """Runs a model on the images of all requests, in batches.

    A batch starts when it is full, when its first image has waited for ``wait_seconds``, or when no request that has
    arrived can add an image: a client that is alone does not wait. While a batch runs, the next one fills. Images that
    go on behind an exit wait in the same way for those of later batches, at each exit ``wait_seconds`` at most.

    Args:
        model: that answers.
        batch_size: images of a batch, at most.
        wait_seconds: how long an image waits for others.
        queued_images: that may wait.
        told: gets the answers, in the thread of the batcher.
    """

    def __init__(
        self, model: EarlyExit, *, batch_size: int, wait_seconds: float, queued_images: int, told: Told
    ) -> None:
        self.model, self.batch_size, self.wait_seconds = model, batch_size, wait_seconds
        self.queued_images, self._told = queued_images, told
        self._waiting: deque[_Waiting] = deque()
        self._queues, self._running, self._entered = model.queues(batch_size), dict[int, _Waiting](), 0
        self._changed, self._expected, self._closed = Condition(), 0, False
        self._thread = Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images that wait."""
        return len(self._waiting)

    @contextmanager
    def expected(self) -> Iterator[None]:
        """Around the reading of a request: its images are on their way, and a batch may wait for them."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        with self._changed:
            self._expected += more
            self._changed.notify()

    def submit(self, squares: Sequence[Pixels]) -> list[Future[Answer]]:
        """Let images wait for the next batches.

        Args:
            squares: N images ``[C, S, S]`` of the model's size.

        Returns:
            N answers to come.

        Raises:
            RefusedError: there is no room for them.
        """
        with self._changed:
            if self._closed or len(self._waiting) + len(squares) > self.queued_images:
                raise RefusedError(503, "the server is busy: try again later")
            now = time.monotonic()
            entered = [_Waiting(square, Future(), now) for square in squares]
            self._waiting.extend(entered)
            self._changed.notify()
        return [one.answer for one in entered]

    def close(self) -> None:
        """Answer what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            batch = [one for one in batch if one.answer.set_running_or_notify_cancel()]
            self._running |= enumerate(batch, start=self._entered)
            self._entered += len(batch)
            try:
                rows = self._run(batch)
                found = self._answers(rows)
                self._told(found, len(batch))
            except Exception as error:  # the thread answers all requests to come, whatever these images did
                count, failed = len(self._running), [*self._running.values()]
                self._queues, self._running, self._entered = self.model.queues(self.batch_size), {}, 0
                print(f"serve: {count} images failed together ({short(error, 200)})", file=sys.stderr, flush=True)
                for one in failed:
                    one.answer.set_exception(RefusedError(500, "the model failed on these images"))
            else:
                for number, answer in zip(rows["number"].tolist(), found, strict=True):
                    self._running.pop(number).answer.set_result(answer)

    def _next(self) -> list[_Waiting] | None:
        """The next batch, empty where images inside have waited long enough; None when all is done after `close`."""
        with self._changed:
            while not self._waiting and not self._running and not self._closed:
                self._changed.wait()
            while len(self._waiting) < self.batch_size and self._expected and not self._closed:
                oldest = min(self._queues.oldest, self._waiting[0].since if self._waiting else inf)
                left = oldest + self.wait_seconds - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            count = min(self.batch_size, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            return batch if batch or self._running else None

    def _run(self, batch: Sequence[_Waiting]) -> Rows:
        """The images that stop when this batch enters."""
        stopped = []
        if batch:
            pixels = torch.from_numpy(np.stack([one.square for one in batch]))
            stopped.append(self._queues.add(self.model.normalized(pixels)))
        with self._changed:
            alone = self._closed or not (self._waiting or self._expected)
        stopped.append(self._queues.flush(waited=0.0 if alone else self.wait_seconds))
        return in_order(stopped)

    def _answers(self, rows: Rows) -> list[Answer]:
        found = self.model.prediction(rows)
        columns = (found.names, found.classes, found.exits, found.confidences, self.model.flops(found))
        return [
            Answer(name, int(number), int(exit), float(confidence), float(flops))
            for name, number, exit, confidence, flops in zip(*columns, strict=True)
        ]
