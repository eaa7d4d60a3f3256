"""Traces: the logits of all exits for every image of a split, with labels and thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from study.arrays import Floats, Integers, balanced, batches
from study.errors import UserError
from study.networks.precisions import Int8Execution

CHUNK = 2**24
"""Logits that are read at a time."""


@dataclass(frozen=True, eq=False)
class Trace:
    """Logits of all exits and the classifier for N images, with labels and thresholds.

    Args:
        logits: ``[N, E+1, C]``, finite, kept as float32. A memory-mapped float32 array stays on disk.
        labels: ``[N]`` int64, in 0..C-1.
        thresholds: ``[E]``, theta_l, finite and not negative.

    Raises:
        UserError: shapes do not fit, or a value is NaN or infinite.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    thresholds: Floats

    def __post_init__(self) -> None:
        logits = np.asarray(self.logits, dtype=np.float32)
        labels = np.asarray(self.labels, dtype=np.int64)
        thresholds = np.asarray(self.thresholds, dtype=np.float64)
        check_logits(logits, labels)
        columns = logits.shape[1]
        if thresholds.shape != (columns - 1,):
            raise UserError(f"trace: thresholds have shape {thresholds.shape}, but the logits need ({columns - 1},)")
        if not (np.isfinite(thresholds).all() and (thresholds >= 0).all()):
            raise UserError("trace: a threshold is negative or not finite")
        for name, value in (("logits", logits), ("labels", labels), ("thresholds", thresholds)):
            object.__setattr__(self, name, value)

    @property
    def exit_count(self) -> int:
        """E."""
        return len(self.thresholds)

    @cached_property
    def answers(self) -> NDArray[np.int64]:
        """``[N, E+1]``, the class that each exit and the classifier answers."""
        # In chunks, because argmax copies a read-only array, and a mapped array is read-only.
        answers = [self.logits[chunk].argmax(axis=2) for chunk in batches(len(self.labels), self.chunk_samples)]
        return np.concatenate(answers)

    @property
    def chunk_samples(self) -> int:
        """Samples whose logits are read at a time."""
        return max(1, CHUNK // int(self.logits[0].size))

    @cached_property
    def right(self) -> NDArray[np.int8]:
        """``[N, E+1]``, 1 where the answer of an exit or of the classifier is right, else 0."""
        return np.asarray(self.answers == self.labels[:, None], dtype=np.int8)

    @cached_property
    def class_sizes(self) -> Integers:
        """``[C]``, samples of each class up to the last one that has any."""
        return np.bincount(self.labels)

    @cached_property
    def exit_accuracies(self) -> Floats:
        """``[E+1]``, share of right answers of each exit and of the classifier on all samples."""
        return np.asarray(self.right.mean(axis=0))

    @cached_property
    def balanced_accuracies(self) -> Floats:
        """``[E+1]``, mean over the classes of the share of right answers in each class."""
        return balanced(self.right, self.labels)

    @cached_property
    def classic_accuracy(self) -> float:
        """Share of right answers of the network without exits."""
        return float(self.exit_accuracies[-1])


@dataclass(frozen=True, eq=False)
class SplitLogits:
    """Logits of all exits and the classifier on one split."""

    logits: NDArray[np.float32]
    """``[N, E+1, C]``."""
    labels: NDArray[np.int64]
    """``[N]``."""
    int8_execution: Int8Execution | None = None
    """How int8 was computed; None for other precisions."""


def check_logits(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    """Refuse logits and labels that no network can produce.

    Raises:
        UserError: shapes do not fit, a logit is NaN or infinite, or a label is not the number of a class.
    """
    if logits.ndim != 3 or logits.shape[1] < 2 or 0 in logits.shape:
        raise UserError(f"trace: logits have shape {logits.shape}, but must be [N, E+1, C] with N, E, C >= 1")
    samples, columns, classes = logits.shape
    if labels.shape != (samples,):
        raise UserError(f"trace: labels have shape {labels.shape}, but the logits need ({samples},)")
    for chunk in batches(samples, max(1, CHUNK // (columns * classes))):
        if not np.isfinite(logits[chunk]).all():
            sample, exit, _ = np.argwhere(~np.isfinite(logits[chunk]))[0]
            raise UserError(f"trace: a logit of sample {chunk.start + sample} at exit {exit + 1} is not finite")
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"trace: labels run from {labels.min()} to {labels.max()}, but there are {classes} classes")
