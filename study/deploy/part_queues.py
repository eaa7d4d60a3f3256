"""Images on their way through a model: before each part they wait until they fill a batch.

Where most images of a batch stop, later parts would run on a few images, which takes longer for each of them. So the
images that go on wait for those of later batches. Answers do not depend on it beyond the rounding of floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.arrays import Booleans
from study.deploy.rule import STOP, Decider, confidence

Rows: TypeAlias = NDArray[Any]
"""``[B]``: a record for each image, with the fields of :func:`fields_of`."""


def fields_of(exit_count: int) -> np.dtype[Any]:
    """What is known of an image on its way.

    ``number`` counts the images in the order in which they came. ``target`` is the exit that is tried next, and that of
    the stop in the end. ``class`` and ``confidence`` are those of the last tried exit, and ``equal`` is the number of
    tried exits in a row with that class.
    """
    numbers = [(name, np.int64) for name in ("number", "target", "class", "equal", "engine_steps")]
    return np.dtype([*numbers, ("confidence", np.float64), ("tried", np.bool_, (exit_count,))], align=True)


def joined(rows: Sequence[Rows], fields: np.dtype[Any]) -> Rows:
    """One after the other; ``numpy.concatenate`` takes longer to compare their fields than to copy them."""
    if len(rows) == 1:
        return rows[0]
    found, end = np.empty(sum(map(len, rows)), fields), 0
    for one in rows:
        found[end : end + len(one)] = one
        end += len(one)
    return found


def in_order(stopped: Sequence[Rows]) -> Rows:
    """Images that stopped, at least one array of them, in the order in which they entered."""
    rows = joined([one for one in stopped if len(one)] or stopped[:1], stopped[0].dtype)
    return rows[np.argsort(rows["number"])]


@dataclass(frozen=True, kw_only=True)
class Network:
    """The parts of a model with what is decided behind each of them."""

    parts: Sequence[Callable[..., tuple[Tensor, ...]]]
    heads: Mapping[int, Callable[[Tensor], Tensor]]
    tried: tuple[int, ...]
    """The exit behind each part; the classifier's logits, if they can be reached, come from one part more."""
    decider: Decider
    device: torch.device
    compact_below: float


@dataclass(frozen=True, eq=False)
class _Group:
    """Images that wait together."""

    state: tuple[Tensor, ...]
    rows: Rows
    since: float


class PartQueues:
    """Runs a model on images that come one batch after the other.

    Args:
        network: that runs.
        batch_size: images of a batch. A part runs when so many wait before it; fewer than that wait before each part.
    """

    def __init__(self, network: Network, batch_size: int) -> None:
        self.batch_size, self._network, self._entered = batch_size, network, 0
        self._groups: list[list[_Group]] = [[] for _ in network.parts]
        self._fields = fields_of(network.decider.rule.exit_count)

    @property
    def oldest(self) -> float:
        """Since when (``time.monotonic``) the first of them has waited before its part; infinite where none waits."""
        return min((groups[0].since for groups in self._groups if groups), default=inf)

    def add(self, inputs: Tensor) -> Rows:
        """Run the first part on normalised images, and each other part before which a full batch waits.

        Args:
            inputs: ``[B, C, S, S]`` on the model's device, at most a batch.

        Returns:
            The images that stopped, among them some that came before.
        """
        rows = np.zeros(len(inputs), self._fields)
        rows["number"] = np.arange(self._entered, self._entered + len(inputs))
        rows["target"], rows["class"] = self._network.decider.rule.first, -1
        self._entered += len(inputs)
        self._hold(0, (inputs,), rows)
        stopped = self._run(0) if len(inputs) else []
        number = len(self._groups)
        while number:  # the last part first, so that few images wait
            number -= 1
            if self._waiting(number) >= self.batch_size:
                stopped += self._run(number)
                number = len(self._groups)
        return joined(stopped, self._fields)

    def flush(self, *, waited: float = 0.0) -> Rows:
        """Run parts on fewer images than a batch.

        Args:
            waited: seconds; parts run whose first image has waited for so long.

        Returns:
            The images that stopped.
        """
        stopped = []
        for number, groups in enumerate(self._groups):
            while groups and monotonic() - groups[0].since >= waited:
                stopped += self._run(number)
        return joined(stopped, self._fields)

    def _waiting(self, number: int) -> int:
        return sum(len(group.rows) for group in self._groups[number])

    def _hold(self, number: int, state: tuple[Tensor, ...], rows: Rows) -> None:
        if len(rows):
            self._groups[number].append(_Group(state, rows, monotonic()))

    def _take(self, number: int) -> tuple[tuple[Tensor, ...], Rows]:
        """A batch of the images that wait before a part, or all of them."""
        groups, size = self._groups[number], self.batch_size
        if len(groups) == 1:
            state, rows = groups[0].state, groups[0].rows
        else:
            state = tuple(torch.cat(one) for one in zip(*(group.state for group in groups), strict=True))
            rows = joined([group.rows for group in groups], self._fields)
        last = groups.pop()
        groups.clear()
        if len(rows) > size:  # before the last group came they were fewer
            groups.append(_Group(tuple(one[size:] for one in state), rows[size:], last.since))
            state, rows = tuple(one[:size] for one in state), rows[:size]
        return state, rows

    def _run(self, number: int) -> list[Rows]:
        """Run a part, try its exit, and let the images that go on wait before the next part."""
        network, last = self._network, self._network.decider.rule.exit_count + 1
        with torch.inference_mode():
            state, rows = self._take(number)
            state = network.parts[number](*state)
            exit = network.tried[number] if number < len(network.tried) else last
            trying = rows["target"] == exit
            count = np.count_nonzero(trying)
            if not count:
                self._hold(number + 1, state, rows)
                return []
            everyone = count == len(rows)
            who, feature = (rows, state[0]) if everyone else (rows[trying], self._at(state[0], trying))
            if exit == last:
                self._answer(who, feature)
                return [who]
            self._decide(who, network.heads[exit](feature), exit)
            if not everyone:
                rows[trying] = who
            going = rows["target"] > exit
            left = np.count_nonzero(going)
            if 0 < left < len(rows) and left <= network.compact_below * len(rows):
                state, rows = tuple(self._at(one, going) for one in state), rows[going]
            if left:
                self._hold(number + 1, state, rows)
        return [who[who["target"] == exit]]

    def _answer(self, who: Rows, logits: Tensor) -> None:
        """Enter the answers of the classifier."""
        who["class"], who["confidence"] = self._on_host(logits.argmax(dim=1), confidence(logits, "max_softmax"))

    def _decide(self, who: Rows, logits: Tensor, exit: int) -> None:
        """Enter the answers of an exit, and what its rule decides. The host waits once for the device.

        It waits twice for ``patience``, whose scores are counted on the host.
        """
        decider, answers, sure = self._network.decider, logits.argmax(dim=1), confidence(logits, "max_softmax")
        if decider.rule.criterion == "patience":
            (classes,) = self._on_host(answers)
            who["equal"] = np.where(who["class"] == classes, who["equal"] + 1, 1)
            scores = torch.from_numpy(who["equal"].astype(np.float64)).to(self._network.device)
        else:
            scores = sure if decider.rule.criterion == "max_softmax" else decider.scores(logits, exit)
        actions, steps = decider.actions(logits, scores, exit)
        found = self._on_host(answers, sure, actions, *([] if steps is None else [steps]))
        who["class"], who["confidence"] = found[:2]
        who["target"] = np.where(found[2] == STOP, exit, found[2])
        who["tried"][:, exit - 1] = True
        if steps is not None:
            who["engine_steps"] += found[3].astype(np.int64)

    def _on_host(self, *columns: Tensor) -> Sequence[NDArray[Any]]:
        """Columns ``[B]`` by one copy."""
        if self._network.device.type == "cpu":
            return [one.numpy() for one in columns]
        return list(torch.stack([one.double() for one in columns]).cpu().numpy())

    def _at(self, tensor: Tensor, chosen: Booleans) -> Tensor:
        """The chosen images. Indexing keeps the memory layout, which ``index_select`` does not."""
        index = torch.from_numpy(np.flatnonzero(chosen))
        if self._network.device.type == "cuda":
            index = index.pin_memory().to(self._network.device, non_blocking=True)
        return tensor[index]
