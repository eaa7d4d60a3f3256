"""Work shared among the machine's cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

PIECE = 2048
"""Samples below which a thread is not worth its start, some 50 microseconds."""


def thread_count() -> int:
    """Cores that this process may use; ``OMP_NUM_THREADS`` lowers it, as it does for torch and numpy."""
    try:
        available = len(os.sched_getaffinity(0))
    except AttributeError:  # no such call on macOS
        available = os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(available, int(asked)) if asked.isdigit() and int(asked) else available


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="replay")


def concurrently(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """``[work(item) for item in items]``, on several cores where the work releases the interpreter's lock."""
    items = list(items)
    if len(items) < 2 or thread_count() == 1:
        return [work(item) for item in items]
    return list(_pool(thread_count()).map(work, items))


def share(work: Callable[[slice], _Result], samples: int, *, each: int = 4) -> list[_Result]:
    """:func:`concurrently` on consecutive slices of the samples, ``each`` of them for a core."""
    return concurrently(work, slices(samples, each=each))


def slices(samples: int, *, each: int = 4) -> list[slice]:
    """Consecutive slices that cover the samples; some for each core, so that none waits long for the last."""
    count = max(1, min(each * thread_count(), samples // PIECE))
    edges = [samples * place // count for place in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(edges)]
