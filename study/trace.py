"""Traces: the logits of all exits for every image of a split, and the ratios that policies compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from study.errors import UserError
from study.policies import Floats, Ratios, jump_ratios, stop_ratios

if TYPE_CHECKING:
    import torch

    from study.networks.runnable import InferenceNetwork


@dataclass(frozen=True, eq=False)
class Trace:
    """Logits of all exits and the classifier for N images, with labels and thresholds.

    Args:
        logits: ``[N, E+1, C]`` float32, finite.
        labels: ``[N]`` int64, in 0..C-1.
        thresholds: ``[E]``, theta_l, finite and not negative.

    Raises:
        UserError: shapes do not fit, or a value is NaN or infinite.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    thresholds: Floats
    _tables: dict[int, DecisionTable] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        logits = np.asarray(self.logits, dtype=np.float32)
        labels = np.asarray(self.labels, dtype=np.int64)
        thresholds = np.asarray(self.thresholds, dtype=np.float64)
        if logits.ndim != 3 or logits.shape[1] < 2 or 0 in logits.shape:
            raise UserError(f"trace: logits have shape {logits.shape}, but must be [N, E+1, C] with N, E, C >= 1")
        samples, columns, classes = logits.shape
        if labels.shape != (samples,):
            raise UserError(f"trace: labels have shape {labels.shape}, but the logits need ({samples},)")
        if thresholds.shape != (columns - 1,):
            raise UserError(f"trace: thresholds have shape {thresholds.shape}, but the logits need ({columns - 1},)")
        if not np.isfinite(logits).all():
            sample, exit, _ = np.argwhere(~np.isfinite(logits))[0]
            raise UserError(f"trace: a logit of sample {sample} at exit {exit + 1} is not finite")
        if labels.min() < 0 or labels.max() >= classes:
            raise UserError(f"trace: labels run from {labels.min()} to {labels.max()}, but there are {classes} classes")
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
        return np.asarray(self.logits.argmax(axis=2), dtype=np.int64)

    def decision_table(self, max_jump: int) -> DecisionTable:
        """All ratios that a policy with ``max_jump`` can ask for; computed once and kept."""
        if max_jump not in self._tables:
            self._tables[max_jump] = DecisionTable.from_trace(self, max_jump)
        return self._tables[max_jump]


@dataclass(frozen=True, eq=False)
class DecisionTable:
    """The ratios of a whole trace, so that a policy is comparisons only."""

    stop: Floats
    """``[N, E]``, r_l."""
    jump: Floats
    """``[N, E, K_max]``, r^k at exit l; K_max may be 0."""

    @classmethod
    def from_trace(cls, trace: Trace, max_jump: int) -> DecisionTable:
        """Compute all ratios in float64."""
        samples, exits = len(trace.labels), trace.exit_count
        stop, jump = np.empty((samples, exits)), np.empty((samples, exits, max_jump))
        for exit in range(1, exits + 1):
            logits = trace.logits[:, exit - 1]
            stop[:, exit - 1] = stop_ratios(logits, float(trace.thresholds[exit - 1]))
            jump[:, exit - 1] = jump_ratios(logits, trace.thresholds, exit, max_jump)
        return cls(stop, jump)

    def at(self, samples: NDArray[np.int64], exit: int) -> Ratios:
        """The ratios of some samples at one exit."""
        return Ratios(self.stop[samples, exit - 1], self.jump[samples, exit - 1])


def collect_logits(
    network: InferenceNetwork,
    images: torch.Tensor,
    prepare: Callable[[torch.Tensor], torch.Tensor],
    *,
    batch_size: int = 256,
    on_batch: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Logits of all exits and the classifier, without augmentation.

    Args:
        network: at any precision; a ``MultiExitNetwork`` runs in eval mode and is left in the mode it was in.
        images: ``[N, ...]`` uint8.
        prepare: turns a batch of images into the network's input, on the network's device.
        batch_size: images a forward pass.
        on_batch: told the number of images done after each batch.

    Returns:
        ``[N, E+1, C]`` float32.
    """
    import torch

    from study.networks.runnable import all_logits

    was_training = isinstance(network, torch.nn.Module) and network.training
    parts = []
    try:
        if isinstance(network, torch.nn.Module):
            network.eval()
        with torch.inference_mode():
            for batch in batches(len(images), batch_size):
                parts.append(all_logits(network, prepare(images[batch])).float().cpu().numpy())
                if on_batch:
                    on_batch(batch.stop)
    finally:
        if isinstance(network, torch.nn.Module):
            network.train(was_training)
    return np.concatenate(parts)


def batches(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` that cover ``count`` items."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
