"""An exponential moving average of the weights that training moves: often better than the weights of any one step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

LIVE = "live."
"""How the keys of live weights begin in a checkpoint."""


class WeightAverage:
    """The average, and the live weights that it is taken of.

    The network holds the average, but for the time of :meth:`live`: that is what is validated, stored and traced.

    Args:
        tensors: parameters and statistics of the network, by name; none: nothing is averaged.
        decay: share of itself that the average keeps in a step, once it is warm.
    """

    def __init__(self, tensors: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self._inside = dict(tensors)
        self._outside = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """The network holds the live weights, to be trained and averaged."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for inside, outside in zip(self._inside.values(), self._outside.values(), strict=True):
            inside.data, outside.data = outside.data, inside.data

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the live weights of an optimizer's step, counted from 1.

        In early steps the average keeps less of itself, (1 + t) / (10 + t): it soon forgets the untrained weights.
        """
        if self._inside:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self._outside.values()), list(self._inside.values()), 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """The live weights, keyed ``live.<name>``, while the network holds the average."""
        return {LIVE + name: tensor for name, tensor in self._outside.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of :meth:`state`; the network holds its average already."""
        for name, tensor in self._outside.items():
            tensor.copy_(tensors[LIVE + name])
