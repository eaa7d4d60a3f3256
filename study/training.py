"""One training loop for all modes, resumable at every epoch.

Modes: ``normal`` trains the backbone alone, ``original`` the backbone of the multi-exit network with its heads idle,
``exits`` the heads on the frozen backbone (which stays in eval mode, so that its accuracy cannot move), ``joint`` both.
All random numbers of an epoch come from a generator seeded by (seed, epoch): a run that goes on from a checkpoint
repeats an uninterrupted one, on CPU bit for bit.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.data import DataInfo, Dataset, ImageSet, augment, normalize, place
from study.errors import UserError
from study.learning_curves import Epoch, best_epoch, outcome
from study.networks.multi_exit import MultiExitNetwork
from study.trace import batches

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
}
"""Numbers that must be above 0, or at least 0."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Everything that decides what a training run computes, but for the number of epochs it is given.

    Args:
        mode: see the module.
        optimizer: ``adam``, ``adamw`` or ``sgd`` (Nesterov momentum).
        schedule: ``constant``, or ``cosine`` from the peak to 0 over ``schedule_epochs``.
        schedule_epochs: the horizon of the schedule; a run may stop earlier, and goes on at the final rate after it.
        warmup_epochs: linear rise of the learning rate at the start.
        exit_loss_base, exit_loss_slope: exit l weighs ``base + slope * l / E`` in the loss; the classifier weighs 1.
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
        if not (self.momentum < 1 and self.label_smoothing < 1):
            raise UserError("training settings momentum and label_smoothing must be below 1")


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands after an epoch: what a checkpoint must hold to go on from there."""

    history: tuple[Epoch, ...]
    optimizer: dict[str, Tensor]
    """Optimizer tensors, keyed ``<parameter index>.<name>``."""

    @property
    def is_best(self) -> bool:
        """The last epoch has the best score so far (the first such, of equals)."""
        return best_epoch(self.history) is self.history[-1]


def train(
    network: MultiExitNetwork,
    dataset: Dataset,
    settings: TrainingSettings,
    *,
    epochs: int,
    resume: TrainingState | None = None,
    on_epoch: Callable[[TrainingState], None] = lambda state: None,
) -> tuple[Epoch, ...]:
    """Train until ``epochs`` epochs are done in all, counted from the very first start.

    Args:
        network: on its device; changed in place. To go on, it must hold the weights of the state resumed from.
        dataset: its train and validation splits are used.
        settings: what to compute.
        epochs: the budget.
        resume: the state to go on from.
        on_epoch: called after every epoch while ``network`` holds that epoch's weights; saves checkpoints, reports.

    Returns:
        The whole history, the resumed part included.
    """
    device = next(network.parameters()).device
    channels_last = device.type == "cuda" or _fast_bf16(device)
    network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    trainable = _trainable(network, settings.mode)
    optimizer = _make_optimizer(trainable, settings)
    history = resume.history if resume else ()
    if resume:
        _load_optimizer(optimizer, resume.optimizer)
    images, labels = place(dataset.train.images, device), torch.from_numpy(dataset.train.labels).to(device)
    step = _Step(network, optimizer, settings, dataset.info)
    while outcome(history, epochs=epochs, patience=settings.patience) == "running":
        epoch = len(history) + 1
        started = time.perf_counter()
        _set_mode(network, settings.mode)
        train_loss = step.run_epoch(images, labels, epoch)
        rate = optimizer.param_groups[0]["lr"]
        validation = evaluate_split(network, dataset.validation, dataset.info, settings, heads=step.uses_heads)
        row = Epoch(
            epoch=epoch,
            learning_rate=rate,
            train_loss=train_loss,
            validation_loss=validation.loss,
            classifier_accuracy=validation.accuracies[-1],
            exit_accuracies=validation.accuracies[:-1],
            score=_score(validation, train_loss, settings.mode),
            seconds=time.perf_counter() - started,
        )
        history = (*history, row)
        on_epoch(TrainingState(history, _optimizer_tensors(optimizer)))
    return history


def _score(validation: SplitResult, train_loss: float, mode: Mode) -> float:
    """Accuracy of the classifier for backbones, the mean over the exits for heads; NaN where a loss is not finite."""
    if not (math.isfinite(train_loss) and math.isfinite(validation.loss)):
        return math.nan
    accuracies = validation.accuracies
    return accuracies[-1] if mode in ("normal", "original") else float(np.mean(accuracies[:-1]))


class _Step:
    """The inner loop: batches, augmentation, loss, update."""

    def __init__(
        self,
        network: MultiExitNetwork,
        optimizer: torch.optim.Optimizer,
        settings: TrainingSettings,
        info: DataInfo,
    ) -> None:
        self.network, self.optimizer, self.settings, self.info = network, optimizer, settings, info
        self.device = next(network.parameters()).device
        self.uses_heads = settings.mode in ("exits", "joint")
        exits = network.exit_count
        self.exit_weights = [
            settings.exit_loss_base + settings.exit_loss_slope * exit / exits for exit in range(1, exits + 1)
        ]

    def run_epoch(self, images: Tensor, labels: Tensor, epoch: int) -> float:
        """One pass over the training images; returns the mean loss per image."""
        seed = epoch_seed(self.settings.seed, epoch)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)  # of random layers, should a backbone have any
            return self._run_batches(images, labels, epoch, torch.Generator().manual_seed(seed))

    def _run_batches(self, images: Tensor, labels: Tensor, epoch: int, generator: torch.Generator) -> float:
        order = torch.randperm(len(images), generator=generator).to(images.device)
        total = torch.zeros((), device=self.device)
        seen = 0
        starts = list(batches(len(order), self.settings.batch_size))
        for number, batch in enumerate(starts):
            chosen = order[batch]
            if len(chosen) == 1:  # batch norm has no statistics of a single image
                continue
            self._set_rate(epoch - 1 + number / len(starts))
            pixels = augment(images[chosen].to(self.device, non_blocking=True), self.info, generator)
            with autocast(self.device, self.settings.precision):
                loss = self._loss(normalize(pixels, self.info), labels[chosen.to(labels.device)])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.detach() * len(chosen)
            seen += len(chosen)
        return float(total) / max(seen, 1)

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        def cross_entropy(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits.float(), labels, label_smoothing=self.settings.label_smoothing)

        network, mode = self.network, self.settings.mode
        if not self.uses_heads:
            return cross_entropy(network.classify(images))
        losses: list[Tensor] = []
        state: tuple[Tensor, ...] = (images,)
        for exit, segment in enumerate(network.segments, start=1):
            with torch.set_grad_enabled(mode == "joint"):
                state = segment(state)
            losses.append(self.exit_weights[exit - 1] * cross_entropy(network.heads(state[0], exit)))
        if mode == "joint":
            losses.append(cross_entropy(network.classifier(state)))
        return torch.stack(losses).sum()

    def _set_rate(self, epochs_done: float) -> None:
        rate = self.settings.learning_rate * schedule_factor(self.settings, epochs_done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate


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


@dataclass(frozen=True)
class SplitResult:
    """Loss and accuracies of a network on a split."""

    loss: float
    """Cross-entropy of the classifier, or the sum over the exits where the heads are evaluated."""
    accuracies: tuple[float, ...]
    """``[E+1]``, or ``[1]`` (the classifier alone)."""


def evaluate_split(
    network: MultiExitNetwork, split: ImageSet, info: DataInfo, settings: TrainingSettings, *, heads: bool
) -> SplitResult:
    """Accuracy on a split in eval mode, without augmentation; with ``heads`` that of every exit too."""
    device = next(network.parameters()).device
    images, labels = place(split.images, device), torch.from_numpy(split.labels).to(device)
    network.eval()
    right = torch.zeros(network.exit_count + 1 if heads else 1, dtype=torch.float64)
    loss = 0.0
    with torch.no_grad():
        for batch in batches(len(labels), 512):
            target = labels[batch]
            with autocast(device, settings.precision):
                pixels = normalize(images[batch].to(device), info)
                logits = network(pixels) if heads else network.classify(pixels)[:, None]
            logits = logits.float()
            right += (logits.argmax(dim=2) == target[:, None]).sum(dim=0).cpu()
            watched = logits[:, :-1] if heads and settings.mode == "exits" else logits
            per_column = F.cross_entropy(
                watched.flatten(0, 1), target.repeat_interleave(watched.shape[1]), reduction="sum"
            )
            loss += float(per_column)
    return SplitResult(loss / len(split.labels), tuple((right / len(split.labels)).tolist()))


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast where asked for, or where ``auto`` finds fast kernels."""
    if precision == "bf16" or (precision == "auto" and _fast_bf16(device)):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def pick_device(name: str) -> torch.device:
    """``cpu``, ``cuda``, ``cuda:1`` or ``auto`` (a GPU where there is one).

    On GPUs, fp32 then means fp32: the ten-bit TF32 that cuDNN would use in its place is switched off.

    Raises:
        UserError: the device does not exist here.
    """
    torch.backends.cudnn.allow_tf32 = False
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


def _trainable(network: MultiExitNetwork, mode: Mode) -> list[nn.Parameter]:
    """The parameters that a mode trains; all others are frozen."""
    parts: dict[Mode, tuple[nn.Module, ...]] = {
        "normal": (network.backbone,),
        "original": (network.backbone,),
        "exits": (network.heads,),
        "joint": (network.backbone, network.heads),
    }
    network.requires_grad_(False)
    for part in parts[mode]:
        part.requires_grad_(True)
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _set_mode(network: MultiExitNetwork, mode: Mode) -> None:
    """Train mode for what is trained. A frozen backbone stays in eval mode: its batch-norm statistics stand."""
    network.train()
    if mode == "exits":
        network.backbone.eval()


def _make_optimizer(parameters: list[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    """Weight decay is for matrices and kernels; biases, scales and batch norm go without."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rate = settings.learning_rate
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, nesterov=settings.momentum > 0)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=rate)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value
        for index, values in state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
