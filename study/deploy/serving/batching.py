"""Images of concurrent requests in common batches: a thread collects them for a short time, then runs the model."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, Thread
from typing import TypeAlias

import numpy as np
import torch

from search_spaces.words import short
from study.data.pixels import Pixels
from study.deploy.early_exit import EarlyExit
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


Told: TypeAlias = Callable[[Sequence[Answer]], None]
"""Gets the answers of each batch."""


class Batcher:
    """Runs a model on the images of all requests, in batches.

    A batch starts when it is full, when its first image has waited for ``wait_seconds``, or when no request that has
    arrived can add an image: a client that is alone does not wait. While a batch runs, the next one fills.

    Args:
        model: that answers.
        batch_size: images of a batch, at most.
        wait_seconds: how long an image waits for others.
        queued_images: that may wait.
        told: gets the answers of each batch, in the thread of the batcher.
    """

    def __init__(
        self, model: EarlyExit, *, batch_size: int, wait_seconds: float, queued_images: int, told: Told
    ) -> None:
        self.model, self.batch_size, self.wait_seconds = model, batch_size, wait_seconds
        self.queued_images, self._told = queued_images, told
        self._waiting: deque[_Waiting] = deque()
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
            if not batch:
                continue
            try:
                found = self._answers(np.stack([one.square for one in batch]))
                self._told(found)
            except Exception as error:  # the thread answers all requests to come, whatever this batch did
                print(f"serve: {len(batch)} images failed together ({short(error, 200)})", file=sys.stderr, flush=True)
                for one in batch:
                    one.answer.set_exception(RefusedError(500, "the model failed on these images"))
            else:
                for one, answer in zip(batch, found, strict=True):
                    one.answer.set_result(answer)

    def _next(self) -> list[_Waiting] | None:
        """The next batch; None when the batcher is closed and nothing waits."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            while self._waiting and len(self._waiting) < self.batch_size and self._expected and not self._closed:
                left = self._waiting[0].since + self.wait_seconds - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            count = min(self.batch_size, len(self._waiting))
            return [self._waiting.popleft() for _ in range(count)] or None

    def _answers(self, squares: Pixels) -> list[Answer]:
        found = self.model.run(self.model.normalized(torch.from_numpy(squares)))
        columns = (found.names, found.classes, found.exits, found.confidences, self.model.flops(found))
        rows = zip(*columns, strict=True)
        return [
            Answer(name, int(number), int(exit), float(confidence), float(flops))
            for name, number, exit, confidence, flops in rows
        ]
