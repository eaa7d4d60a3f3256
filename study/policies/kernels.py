"""The loops of replay, compiled: a whole trace in one pass over its table of scores.

Private to `study`: the functions take plain arrays and named tuples of arrays, check nothing and raise nothing. Each
function has a plain twin on arrays, and the tests compare the two. All functions release the interpreter's lock, so
that threads can share the samples.

Exits are numbered from 1 to E, and E + 1 is the classifier. Arrays over exits have an unused place 0.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from platformdirs import user_cache_path

_STUDY = Path(__file__).parents[1]


def _cache_folder() -> str | None:
    """The folder of compiled code: NUMBA_CACHE_DIR, else the user's cache folder; None where it cannot be written.

    numba's default is a folder beside this file. There the compiled code would outlive an uninstallation of the
    package, and the folder that stays would hide an editable installation from Python.

    Each version of the loops, and of numba, has a folder of its own: numba looks only at the file of the loop itself,
    and compiled code names the types of its arguments by their modules.
    """
    sources = sorted(file for room in ("policies", "fronts") for file in (_STUDY / room).glob("*.py"))
    content = [numba.__version__.encode(), *(file.read_bytes() for file in sources)]
    version = hashlib.sha256(b"".join(content)).hexdigest()[:12]
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or user_cache_path("predictive-exit") / "numba") / version
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return str(folder) if os.access(folder, os.W_OK | os.X_OK) else None


_CACHE_FOLDER = _cache_folder()


class ByContent:
    """Tells numba where the code of a loop lies: not by the path of the package, so that all installations share it.

    A locator of ``NUMBA_CACHE_LOCATOR_CLASSES`` in numba's reference.
    """

    def __init__(self, function: Any, file: str) -> None:
        self._module = function.__module__
        self._py_file = file  # numba names it where a function cannot be kept

    @classmethod
    def from_function(cls, function: Any, file: str) -> ByContent:
        """The locator of a function."""
        return cls(function, file)

    def ensure_cache_path(self) -> None:
        """Make the folder, which may have been removed since the start."""
        if _CACHE_FOLDER:
            Path(_CACHE_FOLDER).mkdir(parents=True, exist_ok=True)

    def get_cache_path(self) -> str | None:
        """The folder."""
        return _CACHE_FOLDER

    def get_source_stamp(self) -> str:
        """What must be equal for the code to be used; the name of the folder holds it."""
        return ""

    def get_disambiguator(self) -> str:
        """Tells functions of one name apart."""
        return str(self._module)


def compiled(function: Any) -> Callable[..., Any]:
    """Compile at the first call. Keep the result on disk for later processes if a folder can be written."""
    usual = numba.config.CACHE_LOCATOR_CLASSES
    numba.config.CACHE_LOCATOR_CLASSES = f"{__name__}.ByContent"  # numba reads it while it decorates a function
    try:
        return numba.njit(nogil=True, cache=_CACHE_FOLDER is not None)(function)  # type: ignore[no-any-return]
    finally:
        numba.config.CACHE_LOCATOR_CLASSES = usual


@compiled
def fill_ratios(logits, thresholds, table):
    """Fill ``table [N, E, K+1]`` with r^k = max_c |z^k_lc| / theta_min(l+k, E); r^0 is the exit criterion's ratio.

    Args:
        logits: ``[N, E+1, C]``.
        thresholds: ``[E]``.
        table: receives the ratios.
    """
    samples, exits, width = table.shape
    classes = logits.shape[2]
    here, ahead = np.zeros(classes + 2), np.zeros(classes + 2)
    for n in range(samples):
        for exit in range(exits):
            for c in range(classes):
                here[c + 1] = logits[n, exit, c]
            for k in range(width):
                if k:
                    for c in range(1, classes + 1):
                        ahead[c] = here[c - 1] + here[c] + here[c + 1]
                    here, ahead = ahead, here
                largest = 0.0
                for c in range(1, classes + 1):
                    largest = max(largest, abs(here[c]))
                theta = thresholds[min(exit + k, exits - 1)]
                table[n, exit, k] = np.inf if theta == 0 else largest / theta


@compiled
def walk(scores, right, labels, policy, right_of_class, stopped, tried, paths):
    """Walk N samples and count them. Returns the number of engine steps.

    Args:
        scores: ``[N, E, K+1]`` of a decision table, with K at least the policy's ``max_jump``.
        right: ``[N, E+1]``, whether the answer of an exit is right.
        labels: ``[N]``.
        policy: a :class:`study.policies.base.CompiledPolicy`.
        right_of_class: ``[C]`` zeros; receives the number of right answers in each class.
        stopped: ``[E+2]`` zeros; receives the number of samples that stop at each exit.
        tried: ``[E+1]`` zeros; receives the number of samples that try each exit.
        paths: None, which compiles to a faster loop, or three arrays that receive the way of each sample: ``[N]``, the
            exit at which it stops; ``[N, E]`` of False, True at the exits tried; ``[N]``, the smoothing steps run.
    """
    beta, next_exit, max_jump, beyond = policy.beta, policy.next_exit, policy.max_jump, policy.beyond
    samples, exits, _ = scores.shape
    steps = 0
    for n in range(samples):
        exit, steps_before = policy.first, steps
        while exit <= exits:
            tried[exit] += 1
            if paths is not None:
                paths[1][n, exit - 1] = True
            if scores[n, exit - 1, 0] >= beta[exit]:
                break
            if max_jump == 0 or exit == exits:
                exit = next_exit[exit]
                continue
            jump = max_jump
            for k in range(1, max_jump):
                if scores[n, exit - 1, k] > beta[min(exit + k, exits)]:
                    jump = k
                    break
            steps += jump
            exit = exit + jump if exit + jump <= exits else beyond
        stopped[exit] += 1
        right_of_class[labels[n]] += right[n, exit - 1]
        if paths is not None:
            paths[0][n], paths[2][n] = exit, steps - steps_before
    return steps
