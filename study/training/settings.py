"""The settings of a training run, its learning rate and its random numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from search_spaces.settings import HEAD_MODES, LARGEST_SEED, MOST, Description, Mode, TrainingFields, first_problem
from study.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(TrainingFields):
    """Everything that decides what a training run computes, beside the number of epochs that it is given.

    Args:
        mode: what is trained.
        schedule_epochs: epochs from the start to the end of the schedule. A run may stop earlier; after it, a run goes
            on at the final learning rate.
        seed: of weights, order of images and augmentation.

    Raises:
        UserError: a value that a field does not allow.
    """

    mode: Annotated[Mode, Description("what is trained")]
    schedule_epochs: Annotated[int, Description("epochs of the schedule", least=1, most=MOST)] = 1
    seed: Annotated[int, Description("seed of the training", least=0, most=LARGEST_SEED)] = 0

    def __post_init__(self) -> None:
        if problem := first_problem(self) or self._clash():
            raise UserError(f"training setting {problem}")

    def _clash(self) -> str | None:
        """The first pair of settings that do not go together, in words."""
        if self.distillation and self.distillation_kind == "decoupled" and self.mixup:
            return "distillation_kind decoupled needs one label an image: set mixup to 0"
        if self.taught_by_average and not self.ema_decay:
            return "teacher average needs an average of the weights: set ema_decay above 0"
        if self.reach and self.mixup:
            return "reach asks for one exit an image: set mixup to 0"
        return None

    def weighs_by_reach(self, epoch: int) -> bool:
        """Whether, in an epoch from 1, exits weigh images by whether the images reach them."""
        return self.trains_heads and self.reach > 0 and epoch > self.schedule_epochs - self.reach_epochs

    @property
    def trains_heads(self) -> bool:
        """Whether the heads run in training."""
        return self.mode in HEAD_MODES

    @property
    def taught_by_average(self) -> bool:
        """Whether exits learn from the classifier of the averaged weights."""
        return self.trains_heads and self.distillation > 0 and self.teacher == "average"


def schedule_factor(settings: TrainingSettings, epochs_done: float) -> float:
    """Learning rate as a share of its peak, after a (fractional) number of epochs."""
    if epochs_done < settings.warmup_epochs:
        # Above 0, because the first batch would change nothing at a rate of 0.
        return max(epochs_done / settings.warmup_epochs, 0.01)
    if settings.schedule == "constant":
        return 1.0
    span = max(settings.schedule_epochs - settings.warmup_epochs, 1e-9)
    progress = min((epochs_done - settings.warmup_epochs) / span, 1.0)
    return 0.5 * (1 + math.cos(math.pi * progress))


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of an epoch's generator: far apart for neighbouring seeds and epochs."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)
