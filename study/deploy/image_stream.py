"""From names of files and folders to batches of pixels, decoded in threads while the network runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from time import perf_counter
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from study.data.image_files import UnreadableImagesError, image_endings, read_square, strict_decoder
from study.data.pixels import Pixels
from study.deploy.early_exit import EarlyExit, Prediction
from study.deploy.folder import Preprocessing
from study.deploy.images import square_of
from study.deploy.part_queues import Rows, in_order

SECONDS_WITHOUT_NEWS = 0.1
"""Images do not wait for others when no further name has come for so long: a slow pipe gets its answers at once."""

BATCHES_HELD = 16
"""Answers wait for at most so many batches for that of an earlier image, which waits for a full batch."""


@dataclass(frozen=True)
class Problem:
    """A name that gives no image."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path} ({self.reason})"


@dataclass(frozen=True, eq=False)
class DecodedBatch:
    """Images that run together, and what was wrong with the names between them."""

    paths: list[Path] = field(default_factory=list)
    squares: list[Pixels] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def pixels(self) -> Tensor:
        """``[B, C, S, S]`` uint8."""
        return torch.from_numpy(np.stack(self.squares))


def images_under(names: Iterable[Path]) -> Iterator[Path | Problem]:
    """The files that names stand for: a file itself, and of a folder all images below it.

    A folder gives the files with the ending of an image, sorted, its subfolders after them. Hidden names are passed
    over, and links to folders are not followed.
    """
    for name in names:
        try:
            if name.is_dir():
                yield from _images_below(name)
            elif not name.exists():
                yield Problem(name, "there is no such file")
            elif not name.is_file():  # a pipe or a device could be read for ever
                yield Problem(name, "it is no file")
            else:
                yield name
        except (OSError, ValueError) as error:  # a name can be too long, or hold a zero
            yield Problem(name, getattr(error, "strerror", None) or str(error))


def _images_below(folder: Path) -> Iterator[Path | Problem]:
    endings, found = image_endings(), False
    closed: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=closed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(place, name)
            if not name.startswith(".") and path.suffix.lower() in endings and path.is_file():
                found = True
                yield path
        while closed:
            error = closed.pop(0)
            yield Problem(Path(error.filename or folder), error.strerror or str(error))
    for error in closed:
        yield Problem(Path(error.filename or folder), error.strerror or str(error))
    if not found and not closed:
        yield Problem(folder, "the folder holds no image")


_Item: TypeAlias = "tuple[Path, Future[Pixels]] | Problem | BaseException | None"
"""A file that is being decoded, a problem, an error of the names, or the end."""


def decoded_batches(found: Iterable[Path | Problem], how: Preprocessing, batch_size: int) -> Iterator[DecodedBatch]:
    """Decode files in threads, at most two batches ahead, and hand them out in their order.

    Args:
        found: from :func:`images_under`; it is read in a thread of its own.
        how: gives pixels their size.
        batch_size: images of a batch; fewer at the end, or where names come slowly. The last one is not full, and so is
            one behind each batch after which names come slowly: nothing has to be held back for images to come.
    """
    queue: Queue[_Item] = Queue(maxsize=2 * batch_size)
    ended = Event()
    pool = ThreadPoolExecutor(max_workers=min(32, os.cpu_count() or 1))

    def put(item: _Item) -> None:
        while not ended.is_set():
            with suppress(Full):
                queue.put(item, timeout=SECONDS_WITHOUT_NEWS)
                return

    def submit() -> None:
        try:
            for one in found:
                put(one if isinstance(one, Problem) else (one, pool.submit(_square, one, how)))
                if ended.is_set():
                    return
            put(None)
        except BaseException as error:  # raised again by the loop below, in the thread of the caller
            put(error)

    # A thread that waits for a line of a pipe must not keep the process alive.
    Thread(target=submit, daemon=True).start()
    try:
        with strict_decoder():
            more, wait = True, None
            while more:
                batch, more = _next_batch(queue, batch_size, wait)
                if batch.paths or batch.problems or wait is not None:
                    yield batch
                wait = SECONDS_WITHOUT_NEWS if len(batch.paths) == batch_size else None
    finally:
        ended.set()
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, eq=False)
class AnsweredImages:
    """Images with their answers, in the order of their names, and what was wrong with names."""

    paths: Sequence[Path]
    prediction: Prediction
    problems: Sequence[Problem]
    seconds: float
    """That the model took."""


def answered_images(model: EarlyExit, found: Iterable[Path | Problem], batch_size: int) -> Iterator[AnsweredImages]:
    """Decode and classify files. All parts of the model run on full batches.

    Images that go on behind an exit wait for those of later batches, until names come slowly, or until the answers that
    wait for theirs are :data:`BATCHES_HELD` batches: where few images go on, most answers else came at the end.
    """
    queues, paths, first = model.queues(batch_size), list[Path](), 0
    early = list[Rows]()  # answers behind an image that has none yet
    for batch in decoded_batches(found, model.preprocessing, batch_size):
        paths += batch.paths
        start = perf_counter()
        if batch.paths:
            early.append(queues.add(model.normalized(batch.pixels)))
        if len(batch.paths) < batch_size or len(paths) >= BATCHES_HELD * batch_size:
            early.append(queues.flush())
        seconds = perf_counter() - start
        rows = in_order(early)
        count = int((rows["number"] == np.arange(first, first + len(rows))).sum())
        yield AnsweredImages(paths[:count], model.prediction(rows[:count]), batch.problems, seconds)
        paths, early, first = paths[count:], [rows[count:]], first + count


def _next_batch(queue: Queue[_Item], batch_size: int, wait: float | None) -> tuple[DecodedBatch, bool]:
    """A batch, and whether another one may follow; its first image may take ``wait`` seconds to come."""
    batch = DecodedBatch()
    while len(batch.paths) < batch_size:
        try:
            item = queue.get(timeout=wait)
        except Empty:
            return batch, True
        wait = SECONDS_WITHOUT_NEWS
        if item is None:
            return batch, False
        if isinstance(item, BaseException):
            raise item
        if isinstance(item, Problem):
            batch.problems.append(item)
            continue
        path, square = item
        try:
            batch.squares.append(square.result())
            batch.paths.append(path)
        except UnreadableImagesError as error:
            reason = error.problems[0].removeprefix(f"{path} (").removesuffix(")")
            batch.problems.append(Problem(path, reason))
    return batch, True


def _square(path: Path, how: Preprocessing) -> Pixels:
    return read_square(path, lambda image: square_of(image, how))
