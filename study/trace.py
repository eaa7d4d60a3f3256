"""Traces: the logits of all exits for every image of a split, and the ratios that policies compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from study.criteria import Criterion, agreement, confidence
from study.errors import UserError
from study.policies import Floats, Hierarchical, Placed, Policy, Ratios, tried_exits

if TYPE_CHECKING:
    import torch

    from study.networks.runnable import InferenceNetwork


CHUNK = 2**24
"""Logits that are looked at in one go."""
_LOGIT = ("logit", ())


@dataclass(frozen=True, eq=False)
class Trace:
    """Logits of all exits and the classifier for N images, with labels and thresholds.

    Args:
        logits: ``[N, E+1, C]`` float32, finite. A memory-mapped array stays on disk.
        labels: ``[N]`` int64, in 0..C-1.
        thresholds: ``[E]``, theta_l, finite and not negative.

    Raises:
        UserError: shapes do not fit, or a value is NaN or infinite.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    thresholds: Floats
    _tables: dict[tuple[str, tuple[int, ...]], DecisionTable] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

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
        # In chunks: of an array that cannot be written, as a mapped one, argmax makes a copy.
        answers = [self.logits[chunk].argmax(axis=2) for chunk in batches(len(self.labels), self._at_once)]
        return np.concatenate(answers)

    @property
    def _at_once(self) -> int:
        """Samples whose logits are looked at in one go."""
        return max(1, CHUNK // int(self.logits[0].size))

    @cached_property
    def right(self) -> NDArray[np.int8]:
        """``[N, E+1]``, 1 where the answer of an exit or of the classifier is right, else 0."""
        return np.asarray(self.answers == self.labels[:, None], dtype=np.int8)

    @cached_property
    def exit_accuracies(self) -> Floats:
        """``[E+1]``, share of right answers of each exit and of the classifier on all samples."""
        return np.asarray(self.right.mean(axis=0))

    @cached_property
    def classic_accuracy(self) -> float:
        """Share of right answers of the network without exits."""
        return float(self.exit_accuracies[-1])

    def decision_table(self, max_jump: int) -> DecisionTable:
        """The ratios of the paper's criterion and of an engine with ``max_jump`` steps; the widest one is kept."""
        widest = self._tables.get(_LOGIT)
        if widest is None or widest.max_jump < max_jump:
            # One table serves all engines up to the published K_max.
            self._tables[_LOGIT] = widest = DecisionTable.from_trace(self, max_jump and max(max_jump, 8))
        return widest.up_to(max_jump)

    def table_for(self, policy: Policy) -> DecisionTable:
        """All that a policy can ask for, at least; computed once and kept. Beta does not matter."""
        criterion = policy.criterion
        if criterion == "logit":
            self.decision_table(policy.max_jump)
            return self._tables[_LOGIT]
        tried: tuple[int, ...] = ()
        if criterion == "patience":  # its scores depend on which exits were tried before
            if not isinstance(policy, Hierarchical | Placed):
                raise UserError("patience is known for the policies Hierarchical and Placed")
            tried = tried_exits(policy, self.exit_count)
        if (criterion, tried) not in self._tables:
            for other in [key for key in self._tables if key[0] == "patience"]:
                del self._tables[other]  # there are as many as there are placements
            self._tables[criterion, tried] = DecisionTable(self._scores(criterion, tried)[:, :, None])
        return self._tables[criterion, tried]

    def _scores(self, criterion: Criterion, tried: tuple[int, ...]) -> Floats:
        """``[N, E]``; 0 at an exit that patience does not try."""
        scores = np.zeros((len(self.labels), self.exit_count))
        if criterion == "oracle":
            scores[self.right[:, :-1] == 1] = np.inf
        elif criterion == "patience":
            columns = np.asarray(tried) - 1
            scores[:, columns] = agreement(self.answers[:, columns])
        elif criterion != "logit":
            for chunk in batches(len(scores), max(1, self._at_once // 4)):  # several arrays in float64
                scores[chunk] = confidence(self.logits[chunk, :-1], criterion)
        return scores


def check_logits(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    """Refuse logits and labels that no network can have given.

    Raises:
        UserError: shapes do not fit, a logit is NaN or infinite, or a label is no class.
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


@dataclass(frozen=True, eq=False)
class DecisionTable:
    """What the policies of a trace compare with beta, so that a policy is comparisons only.

    8 N E (K_max + 1) bytes: 180 MB for 50,000 samples, 50 exits and K_max = 8, however many classes there are.
    """

    scores: Floats
    """``[N, E, K_max + 1]``: the criterion's at place 0, r^k of the engine at place k; K_max may be 0."""

    @property
    def max_jump(self) -> int:
        """K_max."""
        return int(self.scores.shape[2]) - 1

    def up_to(self, max_jump: int) -> DecisionTable:
        """The same for an engine of fewer steps; a view."""
        return DecisionTable(self.scores[:, :, : max_jump + 1])

    @property
    def stop(self) -> Floats:
        """``[N, E]``, r_l, or the scores of another criterion."""
        return self.scores[:, :, 0]

    @property
    def jump(self) -> Floats:
        """``[N, E, K_max]``, r^k at exit l."""
        return self.scores[:, :, 1:]

    @classmethod
    def from_trace(cls, trace: Trace, max_jump: int) -> DecisionTable:
        """Compute all ratios of the paper's criterion and engine in float64.

        One pass over the logits in chunks: a memory-mapped trace may be larger than the memory.
        """
        from study.kernels import fill_ratios
        from study.threads import share

        table = np.empty((len(trace.labels), trace.exit_count, max_jump + 1))
        share(lambda chunk: fill_ratios(trace.logits[chunk], trace.thresholds, table[chunk]), len(table))
        return cls(table)

    def at(self, samples: NDArray[np.int64], exit: int) -> Ratios:
        """The ratios of some samples at one exit."""
        rows = self.scores[samples, exit - 1]
        return Ratios(rows[:, 0], rows[:, 1:])


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
