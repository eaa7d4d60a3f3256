"""Types of arrays, slices of samples, and work on slices shared among the cores."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Booleans: TypeAlias = NDArray[np.bool_]

SMALLEST_SLICE = 2048
"""The smallest slice that is worth a thread: to wake a thread takes about 50 microseconds."""
_THREAD_NAME = "study-arrays"

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def batches(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` items that cover ``count`` items."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def balanced(right: NDArray[Any], labels: Integers) -> Floats:
    """Mean over the classes of the share of right answers in each class; ``right`` ``[N, ...]`` -> ``[...]``.

    A class without images does not count.
    """
    flat = np.asarray(right, dtype=np.float64).reshape(len(labels), -1)
    sizes = np.bincount(labels)
    there = sizes > 0
    shares = [(np.bincount(labels, weights=column) / np.maximum(sizes, 1))[there].mean() for column in flat.T]
    return np.array(shares).reshape(right.shape[1:])


def core_count() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no such call
        return os.cpu_count() or 1


def thread_count() -> int:
    """Cores that this process may use. ``OMP_NUM_THREADS`` lowers the number, as it does for torch and numpy."""
    available = core_count()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(available, int(asked)) if asked.isdigit() and int(asked) else available


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix=_THREAD_NAME)


def concurrently(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """``[work(item) for item in items]``, on several cores if ``work`` releases the interpreter's lock.

    A call from inside ``work`` uses no further threads: it would wait for the pool while it occupies a thread of it.
    """
    items = list(items)
    nested = threading.current_thread().name.startswith(_THREAD_NAME)
    if len(items) < 2 or thread_count() == 1 or nested:
        return [work(item) for item in items]
    return list(_pool(thread_count()).map(work, items))


def share(work: Callable[[slice], _Result], samples: int, *, each: int = 4) -> list[_Result]:
    """:func:`concurrently` on consecutive slices of the samples, ``each`` slices for a core."""
    return concurrently(work, slices(samples, each=each))


def slices(samples: int, *, each: int = 4) -> list[slice]:
    """Consecutive slices that cover the samples; several for each core, so that the cores end together."""
    count = max(1, min(each * thread_count(), samples // SMALLEST_SLICE))
    edges = [samples * place // count for place in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(edges)]
