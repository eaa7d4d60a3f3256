"""Work on slices of samples, shared among the cores."""

from __future__ import annotations

import numpy as np
import pytest

from study import arrays


def test_work_that_shares_work_itself_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of the pool that waited for the pool would wait for ever."""
    monkeypatch.setattr(arrays, "thread_count", lambda: 2)

    def outer(number: int) -> list[int]:
        return arrays.concurrently(lambda inner: 10 * number + inner, range(3))

    assert arrays.concurrently(outer, range(4)) == [[10 * number + inner for inner in range(3)] for number in range(4)]


def test_slices_cover_the_samples_once() -> None:
    for samples in (1, 2047, 2048, 100_001):
        parts = arrays.slices(samples)
        assert [index for part in parts for index in range(part.start, part.stop)] == list(range(samples))


def test_balanced_accuracy_is_the_mean_recall_of_the_classes_that_are_there() -> None:
    labels = np.array([0, 0, 0, 0, 2, 2])
    right = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 1]]).T
    assert arrays.balanced(right, labels).tolist() == [0.5, 0.75]
    assert float(arrays.balanced(right[:, 0] > 0, labels)) == 0.5
