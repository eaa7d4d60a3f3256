"""Recipes of training: the settings of a run, its learning rate, its random numbers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from study.errors import UserError

# Modes: ``normal`` trains the backbone alone, ``original`` the backbone of the multi-exit network with its heads idle,
# ``exits`` the heads on the frozen backbone, ``joint`` both.
Mode = Literal["normal", "original", "exits", "joint"]
Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "cosine"]
Precision = Literal["auto", "fp32", "bf16"]
_POSITIVE = {
    "batch_size": True,
    "learning_rate": True,
    "weight_decay": False,
    "momentum": False,
    "schedule_epochs": True,
    "warmup_epochs": False,
    "label_smoothing": False,
    "exit_loss_base": False,
    "exit_loss_slope": False,
    "exit_gradient": False,
    "distillation": False,
    "temperature": True,
    "ema_decay": False,
}
"""Numbers that must be above 0, or at least 0."""
_BELOW_ONE = ("momentum", "label_smoothing", "ema_decay")
_LATER = {"ema_decay": 0.0}
"""Settings that came when there were run folders already, and what was done before."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Everything that decides what a training run computes, but for the number of epochs it is given.

    Args:
        mode: what is trained.
        optimizer: ``adam``, ``adamw`` or ``sgd`` (Nesterov momentum).
        schedule: ``constant``, or ``cosine`` from the peak to 0 over ``schedule_epochs``.
        schedule_epochs: the horizon of the schedule; a run may stop earlier, and goes on at the final rate after it.
        warmup_epochs: linear rise of the learning rate at the start.
        exit_loss_base, exit_loss_slope: exit l weighs ``base + slope * l / E`` in the loss; the classifier weighs 1.
        exit_gradient: in ``joint``, a factor on the gradients that the exits send into the backbone; their heads learn
            at full rate.
        distillation: share of an exit's loss that compares it with the classifier's softened probabilities instead of
            the label (Zhang et al., "Be Your Own Teacher", ICCV 2019, equation 2).
        temperature: by which both logits are divided then.
        ema_decay: of an exponential moving average of the weights, which then is what is validated and kept; 0: none.
        patience: stop after so many epochs without a better validation score; None: never.
        precision: ``bf16`` is autocast with fp32 weights; ``auto`` takes it where the device has fast bf16 kernels.
    """

    mode: Mode
    batch_size: int = 128
    optimizer: Optimizer = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: Schedule = "constant"
    schedule_epochs: int = 1
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    exit_loss_base: float = 1.0
    exit_loss_slope: float = 0.0
    exit_gradient: float = 1.0
    distillation: float = 0.0
    temperature: float = 3.0
    ema_decay: float = 0.0
    patience: int | None = None
    precision: Precision = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in (("mode", Mode), ("optimizer", Optimizer), ("schedule", Schedule), ("precision", Precision)):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise UserError(f"training setting {name} is {getattr(self, name)!r}, but must be one of {known}")
        for name, positive in _POSITIVE.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and (value > 0 if positive else value >= 0)):
                raise UserError(f"training setting {name} is {value}, but must be {'above 0' if positive else '>= 0'}")
        if self.batch_size < 2:
            raise UserError("training setting batch_size is 1, but must be at least 2: batch norm needs two images")
        for name in _BELOW_ONE:
            if getattr(self, name) >= 1:
                raise UserError(f"training setting {name} is {getattr(self, name)}, but must be below 1")
        if self.distillation > 1:
            raise UserError(f"training setting distillation is {self.distillation}, but is a share: at most 1")

    @property
    def trains_heads(self) -> bool:
        """Whether the heads run in training."""
        return self.mode in ("exits", "joint")

    def to_plain(self) -> dict[str, Any]:
        """Plain values, for names and files; without later settings that change nothing, so that names and files of
        earlier versions stay what they were."""
        return {name: value for name, value in asdict(self).items() if name not in _LATER or value != _LATER[name]}


def schedule_factor(settings: TrainingSettings, epochs_done: float) -> float:
    """Learning rate as a share of its peak, after a (fractional) number of epochs."""
    if epochs_done < settings.warmup_epochs:
        # Never quite 0: the very first batch would be wasted.
        return max(epochs_done / settings.warmup_epochs, 0.01)
    if settings.schedule == "constant":
        return 1.0
    span = max(settings.schedule_epochs - settings.warmup_epochs, 1e-9)
    progress = min((epochs_done - settings.warmup_epochs) / span, 1.0)
    return 0.5 * (1 + math.cos(math.pi * progress))


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of an epoch's generator: far apart for neighbouring seeds and epochs."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


HEAD_MODES = ("exits", "joint")
