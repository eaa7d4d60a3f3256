"""Exit criteria: scores that decide whether a sample stops at an exit.

A criterion turns the logits of an exit into one score a sample. The score is large where the exit is confident, and a
policy stops the sample if ``score >= beta``. ``logit`` is the criterion of the paper. The others are baselines:

- ``logit``: max_c |z_c| / theta_l (Li et al. 2023, Eq. 1-2).
- ``max_softmax``: max_c p_c (Hendrycks and Gimpel 2017).
- ``entropy``: 1 - H(p) / ln C, 0 for a uniform answer and 1 for a certain one (Teerapittayanon et al. 2016).
- ``margin``: p of the first class - p of the second (Scheffer et al. 2001).
- ``log_margin``: -ln(1 - margin), in nats. It orders samples as ``margin`` does, and resolves margins close to 1.
- ``patience``: the number of tried exits in a row, up to the present one, with the same answer (Zhou et al. 2020).
- ``oracle``: infinite if the exit's answer is right, else 0. The oracle needs the labels: it is a bound, not a rule.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from study.errors import UserError

Criterion = Literal["logit", "max_softmax", "entropy", "margin", "log_margin", "patience", "oracle"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
_Confidence = Literal["max_softmax", "entropy", "margin", "log_margin"]


def confidence(logits: NDArray[np.floating], criterion: _Confidence) -> NDArray[np.float64]:
    """The confidence of an exit, from its softmax.

    Args:
        logits: ``[..., C]``.
        criterion: ``max_softmax``, ``entropy``, ``margin`` or ``log_margin``. With a single class each of them is 1.

    Returns:
        ``[...]`` float64, from 0 to 1; ``log_margin`` from 0 to 709.
    """
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=-1)
    classes = logits.shape[-1]
    if classes == 1 or criterion == "max_softmax":
        return np.asarray(1 / total)
    if criterion == "log_margin":
        # 1 - margin = (2 p_2 + p_3 + ...), summed without the largest: 1 - margin itself would cancel.
        np.put_along_axis(weights, weights.argmax(axis=-1, keepdims=True), 0.0, axis=-1)
        unsure = (weights.sum(axis=-1) + weights.max(axis=-1)) / total
        return np.asarray(np.maximum(-np.log(np.maximum(unsure, np.finfo(np.float64).tiny)), 0.0))
    if criterion == "margin":
        second = np.partition(weights, classes - 2, axis=-1)[..., classes - 2]
        return np.asarray((1 - second) / total)
    # H = ln(sum w) - sum(w ln w) / sum w, with ln w = the shifted logit
    entropy = np.log(total) - (weights * shifted).sum(axis=-1) / total
    return np.asarray(np.clip(1 - entropy / np.log(classes), 0.0, 1.0))


def agreement(answers: NDArray[np.int64]) -> NDArray[np.float64]:
    """``[N, T]``, from 1 to T: the number of equal answers in a row, up to each answer.

    ``answers [N, T]`` are classes, in the order in which the exits are tried.
    """
    runs, everyone = Agreement(len(answers)), np.arange(len(answers))
    return np.stack([runs.after(everyone, column) for column in answers.T], axis=1)


class Agreement:
    """:func:`agreement` of N samples, exit by exit, for a live network."""

    def __init__(self, samples: int) -> None:
        self._last = np.full(samples, -1, dtype=np.int64)
        self._run = np.zeros(samples)

    def after(self, samples: NDArray[np.int64], answers: NDArray[np.int64]) -> NDArray[np.float64]:
        """``[B]``: the agreement of the samples ``[B]`` that have just got these answers at an exit."""
        same = self._last[samples] == answers
        self._run[samples] = np.where(same, self._run[samples] + 1, 1)
        self._last[samples] = answers
        return self._run[samples]


def check_criterion(criterion: str) -> None:
    """Refuse an unknown criterion by a UserError."""
    if criterion not in CRITERIA:
        raise UserError(f"exit criterion {criterion!r} is unknown: use one of {', '.join(CRITERIA)}")
