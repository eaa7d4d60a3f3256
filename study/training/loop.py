"""One training loop for all modes, resumable at every epoch.

In the mode ``exits`` the frozen backbone stays in eval mode, so that its accuracy cannot move. All random numbers of
an epoch come from a generator seeded by (seed, epoch): a run that goes on from a checkpoint repeats an uninterrupted
one, on CPU bit for bit.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.settings import Mode, TrainingPrecision
from study.arrays import batches
from study.data.batches import augment, normalize, place, to_device
from study.data.settings import DataInfo, Dataset, ImageSet
from study.errors import UserError, is_lack_of_memory
from study.networks.multi_exit import MultiExitNetwork
from study.training.cuda_graphs import GraphedBackward
from study.training.learning_curves import Epoch, best_epoch, outcome
from study.training.loss import training_loss
from study.training.settings import TrainingSettings, epoch_seed, schedule_factor
from study.training.weight_average import LIVE, WeightAverage


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands after an epoch: what a checkpoint must hold to go on from there."""

    history: tuple[Epoch, ...]
    optimizer: dict[str, Tensor]
    """Optimizer tensors, keyed ``<parameter index>.<name>``; beside averaged weights the live ones, ``live.<name>``."""

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
    device = network.device
    trainer = Trainer(network, settings, dataset.info)
    history = resume.history if resume else ()
    if resume:
        trainer.load_state(resume.optimizer)
    images, labels = place(dataset.train.images, device), torch.from_numpy(dataset.train.labels).to(device)
    while outcome(history, epochs=epochs, patience=settings.patience) == "running":
        epoch = len(history) + 1
        started = time.perf_counter()
        train_loss = trainer.run_epoch(images, labels, epoch)
        rate = trainer.optimizer.param_groups[0]["lr"]
        validation = evaluate_split(network, dataset.validation, dataset.info, settings, heads=settings.trains_heads)
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
        on_epoch(TrainingState(history, trainer.state()))
    return history


def _score(validation: SplitResult, train_loss: float, mode: Mode) -> float:
    """Accuracy of the classifier for backbones, the mean over the exits for heads; NaN where a loss is not finite."""
    if not (math.isfinite(train_loss) and math.isfinite(validation.loss)):
        return math.nan
    accuracies = validation.accuracies
    return accuracies[-1] if mode in ("normal", "original") else float(np.mean(accuracies[:-1]))


class Trainer:
    """The inner loop: batches, augmentation, loss, update.

    Between epochs the network holds the average of its weights, where one is taken.

    Args:
        network: on its device; its weights are moved to the layout ``channels_last``.
        settings: what to compute.
        info: of the images.
    """

    def __init__(self, network: MultiExitNetwork, settings: TrainingSettings, info: DataInfo) -> None:
        self.network, self.settings, self.info = network, settings, info
        self.device = network.device
        # The faster layout on CPUs too: without it oneDNN reorders each map on its way into a convolution, and back.
        network.to(memory_format=torch.channels_last)
        self.optimizer = _make_optimizer(_trainable(network, settings.mode), settings)
        self.captures = self.device.type == "cuda"
        """Whether full batches run as a CUDA graph."""
        self._graph: GraphedBackward | None = None
        self.average = WeightAverage(_moving(network, settings.mode) if settings.ema_decay else {}, settings.ema_decay)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold beside the network's own tensors."""
        return {**_optimizer_tensors(self.optimizer), **self.average.state()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of :meth:`state`."""
        _load_optimizer(self.optimizer, {name: value for name, value in tensors.items() if not name.startswith(LIVE)})
        self.average.load_state(tensors)

    def set_mode(self) -> None:
        """Train mode for what is trained. A frozen backbone stays in eval mode: its batch-norm statistics stand."""
        self.network.train()
        if self.settings.mode == "exits":
            self.network.backbone.eval()

    def run_epoch(self, images: Tensor, labels: Tensor, epoch: int) -> float:
        """One pass over the training images.

        Args:
            images: ``[N, C, H, W]`` uint8, on the device or on the host.
            labels: ``[N]`` int64, on the device.
            epoch: from 1; decides order, augmentation and learning rate.

        Returns:
            The mean loss per image.
        """
        self.set_mode()
        seed = epoch_seed(self.settings.seed, epoch)
        cuda = self.device.type == "cuda"
        on_device = (
            torch.cuda.device(self.device) if cuda else contextlib.nullcontext()
        )  # streams and graphs are its own
        with on_device, torch.random.fork_rng(devices=[self.device] if cuda else []), self.average.live():
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
            pixels = augment(to_device(images[chosen], self.device), self.info, generator)
            loss = self._backward(normalize(pixels, self.info), labels[chosen.to(labels.device)])
            self.optimizer.step()
            self.average.update((epoch - 1) * len(starts) + number + 1)
            total += loss.detach() * len(chosen)
            seen += len(chosen)
        return float(total) / max(seen, 1)

    def _backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Leave the gradients of a batch in the parameters; returns its loss."""
        if self.captures and len(labels) == self.settings.batch_size:
            self._graph = self._graph or self._capture(images, labels)
            if self._graph:
                return self._graph(images, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(images, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def _capture(self, images: Tensor, labels: Tensor) -> GraphedBackward | None:
        """None, and no further try, where an operation of a backbone from elsewhere cannot be captured."""
        try:
            return GraphedBackward(self._loss, self.network, images, labels)
        except RuntimeError as error:
            if is_lack_of_memory(error):
                raise
            self.captures = False
            warnings.warn(f"training goes on without a CUDA graph, more slowly: {error}", stacklevel=2)
            return None

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        with autocast(self.device, self.settings.precision):
            return training_loss(self.network, images, labels, self.settings)

    def _set_rate(self, epochs_done: float) -> None:
        rate = self.settings.learning_rate * schedule_factor(self.settings, epochs_done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate


@dataclass(frozen=True)
class SplitResult:
    """Loss and accuracies of a network on a split."""

    loss: float
    """Cross-entropy of the classifier, or the sum over all that is trained where the heads are evaluated: in ``exits``
    over the exits, in ``joint`` over exits and classifier."""
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
                pixels = normalize(to_device(images[batch], device), info)
                logits = network(pixels) if heads else network.classify(pixels)[:, None]
            logits = logits.float()
            right += (logits.argmax(dim=2) == target[:, None]).sum(dim=0).cpu()
            watched = logits[:, :-1] if heads and settings.mode == "exits" else logits
            per_column = F.cross_entropy(
                watched.flatten(0, 1), target.repeat_interleave(watched.shape[1]), reduction="sum"
            )
            loss += float(per_column)
    return SplitResult(loss / len(split.labels), tuple((right / len(split.labels)).tolist()))


def autocast(device: torch.device, precision: TrainingPrecision) -> contextlib.AbstractContextManager[Any]:
    """Autocast for ``bf16``, nothing for ``fp32``."""
    if precision == "auto":
        raise ValueError("the precision auto must be resolved before the training starts: see fast_precision")
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def fast_precision(device: torch.device) -> Literal["fp32", "bf16"]:
    """The precision that ``auto`` means on a device of this machine: ``bf16`` where its kernels are fast."""
    if device.type == "cuda":
        fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu.get_capabilities().get("amx_bf16", False)
    return "bf16" if fast else "fp32"


def forbid_tf32() -> None:
    """Let fp32 mean fp32 on GPUs: cuDNN would use TF32, whose mantissa has ten bits, in its place."""
    torch.backends.cudnn.allow_tf32 = False


def pick_device(name: str) -> torch.device:
    """``cpu``, ``cuda``, ``cuda:1`` or ``auto`` (a GPU where there is one).

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


_TRAINED: dict[Mode, tuple[str, ...]] = {
    "normal": ("backbone.",),
    "original": ("backbone.",),
    "exits": ("heads.",),
    "joint": ("backbone.", "heads."),
}
"""How the names of what a mode trains begin."""


def _trainable(network: MultiExitNetwork, mode: Mode) -> list[nn.Parameter]:
    """The parameters that a mode trains; all others are frozen."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(_TRAINED[mode]))
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _moving(network: MultiExitNetwork, mode: Mode) -> dict[str, Tensor]:
    """Parameters and batch-norm statistics of what a mode trains, by name; without the counters of batches."""
    named = itertools.chain(network.named_parameters(), network.named_buffers())
    return {name: value for name, value in named if name.startswith(_TRAINED[mode]) and value.is_floating_point()}


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
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        if value.ndim and value.shape == parameter.shape:  # files know no memory layout; a step is fast in one alone
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
