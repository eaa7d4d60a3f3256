"""The training loop of all modes, resumable at every epoch.

In the mode ``exits`` the frozen backbone stays in eval mode, so that its accuracy cannot change. All random numbers of
an epoch come from a generator with a seed made from (seed, epoch): a run that goes on from a checkpoint equals an
uninterrupted run, on CPUs bit for bit.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from search_spaces.settings import Mode, TrainingPrecision
from study.arrays import Booleans, balanced, batches
from study.data.augmentation import Augmentation
from study.data.batches import images_at_once, normalize, place, to_device
from study.data.settings import DataInfo, Dataset, ImageSet
from study.errors import UserError, is_lack_of_memory
from study.networks.multi_exit import MultiExitNetwork
from study.training.cuda_graphs import GraphedBackward
from study.training.learning_curves import Epoch, best_epoch, outcome
from study.training.loss import balanced_weights, training_loss, weights_by_reach
from study.training.optimizer import (
    frozen_segments,
    load_optimizer,
    make_optimizer,
    moving_tensors,
    optimizer_tensors,
)
from study.training.settings import TrainingSettings, epoch_seed, schedule_factor
from study.training.weight_average import LIVE, WeightAverage


@dataclass(frozen=True)
class TrainingState:
    """The state of a run after an epoch. A checkpoint holds it, so that the run can go on."""

    history: tuple[Epoch, ...]
    optimizer: dict[str, Tensor]
    """Optimizer tensors by ``<parameter index>.<name>``, and the live weights of an average by ``live.<name>``."""

    @property
    def is_best(self) -> bool:
        """Whether the last epoch has the best score so far; of equal scores, the first epoch is the best."""
        return best_epoch(self.history) is self.history[-1]


def train(
    network: MultiExitNetwork,
    dataset: Dataset,
    settings: TrainingSettings,
    *,
    epochs: int,
    resume: TrainingState | None = None,
    on_epoch: Callable[[TrainingState], None] = lambda state: None,
    images_that_reach: Callable[[], Booleans] | None = None,
) -> tuple[Epoch, ...]:
    """Train up to ``epochs`` epochs in all, counted from the first start.

    Args:
        network: on its device; changed in place. With ``resume`` it must hold the weights of this state.
        dataset: the train and validation splits are used.
        resume: the state from which the run goes on.
        on_epoch: called after every epoch while ``network`` holds the weights of the epoch: saves checkpoints, reports.
        images_that_reach: ``[E, N]``, whether an image of the train split reaches an exit of ``network`` as it is now;
            for the setting ``reach``.

    Returns:
        The whole history, including the resumed part.
    """
    device = network.device
    trainer = Trainer(network, settings, dataset.info)
    history = resume.history if resume else ()
    if resume:
        trainer.load_state(resume.optimizer)
    images, labels = place(dataset.train.images, device), torch.from_numpy(dataset.train.labels).to(device)
    while outcome(history, epochs=epochs, patience=settings.patience) == "running":
        epoch = len(history) + 1
        started = time.perf_counter()
        weights = None
        if settings.weighs_by_reach(epoch):
            assert images_that_reach is not None, "the setting reach needs to know which images reach an exit"
            weights = weights_by_reach(torch.from_numpy(images_that_reach()).to(device), settings.reach)
        train_loss = trainer.run_epoch(images, labels, epoch, weights)
        validation = evaluate_split(network, dataset.validation, dataset.info, settings)
        row = Epoch(
            epoch=epoch,
            learning_rate=trainer.optimizer.param_groups[0]["lr"],
            train_loss=train_loss,
            validation_loss=validation.loss,
            classifier_accuracy=validation.accuracies[-1],
            classifier_balanced_accuracy=validation.balanced_accuracy,
            exit_accuracies=validation.accuracies[:-1],
            score=_score(validation, train_loss, settings.mode),
            seconds=time.perf_counter() - started,
        )
        history = (*history, row)
        on_epoch(TrainingState(history, trainer.state()))
    return history


def _score(validation: SplitResult, train_loss: float, mode: Mode) -> float:
    """Accuracy of the classifier for backbones, mean accuracy of the exits for heads; NaN if a loss is not finite."""
    if not (math.isfinite(train_loss) and math.isfinite(validation.loss)):
        return math.nan
    accuracies = validation.accuracies
    return accuracies[-1] if mode in ("normal", "original") else float(np.mean(accuracies[:-1]))


class Trainer:
    """The inner loop: batches, augmentation, loss, update.

    Between epochs the network holds the average of its weights, if the settings ask for an average. The weights of the
    network are moved to the layout ``channels_last``.
    """

    def __init__(self, network: MultiExitNetwork, settings: TrainingSettings, info: DataInfo) -> None:
        self.network, self.settings, self.info = network, settings, info
        self.device = network.device
        # The faster layout also on CPUs: in the other layout, oneDNN reorders each map before and after a convolution.
        network.to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(network, settings)
        self.captures = self.device.type == "cuda"
        """Whether full batches run as a CUDA graph."""
        self.augmentation = Augmentation(settings, info)
        self._graph: GraphedBackward | None = None
        self.class_weights: Tensor | None = None
        """``[C]``, from the labels of the first epoch where the settings ask for weights."""
        self.average = WeightAverage(
            moving_tensors(network, settings) if settings.ema_decay else {}, settings.ema_decay
        )

    def state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint must hold beside the tensors of the network."""
        return {**optimizer_tensors(self.optimizer), **self.average.state()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the tensors of :meth:`state`."""
        load_optimizer(self.optimizer, {name: value for name, value in tensors.items() if not name.startswith(LIVE)})
        self.average.load_state(tensors)

    def set_mode(self) -> None:
        """Put the trained parts into train mode. A frozen backbone stays in eval mode and keeps its statistics."""
        self.network.train()
        if self.settings.mode == "exits":
            self.network.backbone.eval()
        for segment in frozen_segments(self.network, self.settings):
            segment.eval()

    def run_epoch(self, images: Tensor, labels: Tensor, epoch: int, weights: Tensor | None = None) -> float:
        """One pass over the training images.

        Args:
            images: ``[N, C, H, W]`` uint8, on the device or on the host.
            labels: ``[N]`` int64, on the device.
            epoch: number of the epoch, from 1; decides order, augmentation and learning rate.
            weights: ``[E, N]`` of the images in the losses of the exits, on the device; None: every image weighs 1.

        Returns:
            The mean loss per image.
        """
        self.set_mode()
        if self.settings.class_weights == "balanced" and self.class_weights is None:
            self.class_weights = balanced_weights(labels, self.network.classes)
        seed = epoch_seed(self.settings.seed, epoch)
        cuda = self.device.type == "cuda"
        # Streams and graphs belong to a device.
        on_device = torch.cuda.device(self.device) if cuda else contextlib.nullcontext()
        with on_device, torch.random.fork_rng(devices=[self.device] if cuda else []), self.average.live():
            torch.manual_seed(seed)  # for random layers that a backbone may have
            return self._run_batches(images, labels, epoch, weights, torch.Generator().manual_seed(seed))

    def _run_batches(
        self, images: Tensor, labels: Tensor, epoch: int, weights: Tensor | None, generator: torch.Generator
    ) -> float:
        order = torch.randperm(len(images), generator=generator)
        mirrored = self.augmentation.mirrored(len(images), self.settings.seed, epoch)
        flips = None if mirrored is None else mirrored[order]
        order = order.to(images.device)
        total = torch.zeros((), device=self.device)
        seen = 0
        starts = list(batches(len(order), self.settings.batch_size))
        for number, batch in enumerate(starts):
            chosen = order[batch]
            if len(chosen) == 1:  # batch norm has no statistics of a single image
                continue
            rate = self.settings.learning_rate * schedule_factor(self.settings, epoch - 1 + number / len(starts))
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            own_flips = None if flips is None else flips[batch]
            pixels = self.augmentation.pixels(to_device(images[chosen], self.device), generator, own_flips)
            chosen = chosen.to(labels.device)
            batch_of_all = self.augmentation.mixed(normalize(pixels, self.info), labels[chosen])
            loss = self._backward(*batch_of_all, *([] if weights is None else [weights[:, chosen]]))
            self.optimizer.step()
            self.average.update((epoch - 1) * len(starts) + number + 1)
            total += loss.detach() * len(chosen)
            seen += len(chosen)
        return float(total) / max(seen, 1)

    def _backward(self, images: Tensor, labels: Tensor, *weights: Tensor) -> Tensor:
        """Leave the gradients of a batch in the parameters; return the loss."""
        batch = (images, labels, *weights)
        if self.captures and len(labels) == self.settings.batch_size:
            if self._graph and len(self._graph.batch) != len(batch):
                self._graph = None  # before the next one is captured: both would need the memory of a batch
            self._graph = self._graph or self._capture(*batch)
            if self._graph:
                return self._graph(*batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(*batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def _capture(self, *batch: Tensor) -> GraphedBackward | None:
        """Capture a graph; None, without a second try, if an operation of a user's backbone cannot be captured."""
        try:
            return GraphedBackward(self._loss, self.network, *batch)
        except RuntimeError as error:
            if is_lack_of_memory(error):
                raise
            self.captures = False
            warnings.warn(f"training goes on without a CUDA graph, more slowly: {error}", stacklevel=2)
            return None

    def _loss(self, images: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        settings = self.settings
        teacher = self._averaged_answers(images) if settings.taught_by_average else None
        with autocast(self.device, settings.precision):
            return training_loss(self.network, images, labels, settings, self.class_weights, teacher, weights)

    def _averaged_answers(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of the classifier with averaged weights, in eval mode.

        They need an autocast of their own, which keeps the bf16 copies of the weights that it has seen.
        """
        self.network.eval()
        with torch.no_grad(), self.average.averaged(), autocast(self.device, self.settings.precision):
            logits = self.network.classify(images)
        self.set_mode()
        return logits


@dataclass(frozen=True)
class SplitResult:
    """Loss and accuracies of a network on a split."""

    loss: float
    """Cross-entropy of the classifier; with heads the sum of cross-entropies, in ``exits`` over the exits, in ``joint``
    over exits and classifier."""
    accuracies: tuple[float, ...]
    """``[E+1]``, or ``[1]`` for the classifier alone."""
    balanced_accuracy: float
    """Of the classifier: mean over the classes of the share of right answers in each class."""


def evaluate_split(
    network: MultiExitNetwork, split: ImageSet, info: DataInfo, settings: TrainingSettings
) -> SplitResult:
    """Evaluate the classifier, and every exit if the mode trains heads: in eval mode, without augmentation."""
    device, heads = network.device, settings.trains_heads
    images, labels = place(split.images, device), torch.from_numpy(split.labels).to(device)
    network.eval()
    right = torch.zeros(network.exit_count + 1 if heads else 1, dtype=torch.float64)
    classified = []
    loss = 0.0
    with torch.no_grad():
        for batch in batches(len(labels), images_at_once(images, 512)):
            target = labels[batch]
            with autocast(device, settings.precision):
                pixels = normalize(to_device(images[batch], device), info)
                logits = network(pixels) if heads else network.classify(pixels)[:, None]
            logits = logits.float()
            hits = (logits.argmax(dim=2) == target[:, None]).cpu()
            right += hits.sum(dim=0)
            classified.append(hits[:, -1].numpy())
            watched = logits[:, :-1] if settings.mode == "exits" else logits
            targets = target.repeat_interleave(watched.shape[1])
            loss += float(F.cross_entropy(watched.flatten(0, 1), targets, reduction="sum"))
    return SplitResult(
        loss / len(split.labels),
        tuple((right / len(split.labels)).tolist()),
        float(balanced(np.concatenate(classified), split.labels)),
    )


def autocast(device: torch.device, precision: TrainingPrecision) -> torch.autocast:
    """Autocast for ``bf16``, nothing for ``fp32``."""
    if precision == "auto":
        raise ValueError("the precision auto must be resolved before the training starts: see fast_precision")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def fast_precision(device: torch.device) -> Literal["fp32", "bf16"]:
    """The precision that ``auto`` means on a device of this machine: ``bf16`` where its kernels are fast."""
    if device.type == "cuda":
        fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        known = torch.cpu.get_capabilities()
        fast = any(known.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
    return "bf16" if fast else "fp32"


def forbid_tf32() -> None:
    """Let fp32 mean fp32 on GPUs: cuDNN would use TF32, whose mantissa has ten bits, in its place."""
    torch.backends.cudnn.allow_tf32 = False


def pick_device(name: str) -> torch.device:
    """The device of a name: ``cpu``, ``cuda``, ``cuda:1`` or ``auto`` (a GPU if there is one).

    Raises:
        UserError: the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r} is unknown: use auto, cpu or cuda") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r} is not here: this machine has {torch.cuda.device_count()} CUDA devices")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is not supported: use auto, cpu or cuda")
    return device
