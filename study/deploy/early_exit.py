"""``EarlyExit``: an exported model that classifies images and stops early."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from study.arrays import Booleans, Floats, Integers, batches
from study.deploy.folder import Export, read_export
from study.deploy.images import Images, pixels_of
from study.deploy.modules import execution_of, runnable_parts
from study.deploy.part_queues import Network, PartQueues, Rows, in_order
from study.deploy.rule import Decider
from study.errors import UserError
from study.networks.compiler import check_compiler
from study.networks.quantization import check_precision


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answers for N images."""

    classes: Integers
    """``[N]``, numbers of classes."""
    exits: Integers
    """``[N]``: the exit at which an image stopped, from 1; E + 1 is the classifier."""
    confidences: Floats
    """``[N]``: the largest probability of the softmax there."""
    names: tuple[str, ...]
    """N names of classes."""
    tried: Booleans = field(repr=False)
    """``[N, E]``: the exits whose heads ran."""
    engine_steps: Integers = field(repr=False)
    """``[N]``: smoothing steps of the prediction engine."""


class EarlyExit:
    """An exported model: ``EarlyExit.load("exported/").predict(images)``.

    Attributes:
        class_names: the names of the classes, in the order of their numbers.
        device: that runs the network.
        precision: of the network.
        int8_execution: how the device computes int8; None for other precisions.
        exit_count: E of the network; ``tried`` are the exits of them that have heads.
        facts: all that ``model.json`` says.
        preprocessing: how images become what the network takes.
        network: the parts with their decisions.
    """

    def __init__(self, export: Export, device: torch.device, *, compile: bool, compact_below: float) -> None:
        self.class_names, self.facts, self.device = export.class_names, export.facts, device
        self.precision, self.int8_execution = export.precision, execution_of(export, device)
        self.exit_count, self.tried = export.rule.exit_count, export.tried
        self.preprocessing, self._costs = export.preprocessing, export.costs
        parts, heads = runnable_parts(export, device, compiled=compile)
        self.network = Network(
            parts=parts,
            heads=heads,
            tried=export.tried,
            decider=Decider(export.rule, device),
            device=device,
            compact_below=compact_below,
        )
        levels = (
            torch.tensor((self.preprocessing.mean, self.preprocessing.std), dtype=torch.float32).mul_(255).to(device)
        )
        self._mean, self._std = levels[:, :, None, None]

    def __repr__(self) -> str:
        tried = ", ".join(map(str, self.tried)) or "none"
        return (
            f"<EarlyExit of {len(self.class_names)} classes: {self.precision} on {self.device.type}, tries exits "
            f"{tried} of {self.exit_count}>"
        )

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str = "auto", compile: bool = False, compact_below: float = 1.0
    ) -> EarlyExit:
        """Read an exported model and prepare it to run.

        Args:
            folder: that ``predictive-exit export`` wrote, with ``--format torch`` or ``all``.
            device: ``auto``, ``cpu`` or ``cuda``.
            compile: make the kernels with ``torch.compile``, at the first batch; takes seconds for each part.
            compact_below: images that stopped are taken out of the batch where at most this share of it goes on: 1
                after every exit at which one stops, 0 never. Answers do not depend on it.

        Raises:
            UserError: the folder holds no such model or a damaged one, or the device lacks its precision.
        """
        if not 0 <= compact_below <= 1:
            raise UserError(f"compact_below is {compact_below}, but must be a share from 0 to 1")
        where = _device(device)
        if compile:
            check_compiler(where)
        export = read_export(Path(folder))
        check_precision(export.precision, where)
        try:
            return cls(export, where, compile=compile, compact_below=compact_below)
        except UserError:
            raise
        except (ValueError, TypeError, RuntimeError, KeyError, IndexError) as error:
            problem = " ".join(str(error).split())[:200]
            raise UserError(f"{folder} holds parts that cannot run together ({problem})") from None

    def predict(self, images: Images, *, batch_size: int = 256) -> Prediction:
        """Classify images. Each part runs on full batches: images that go on wait for those of later batches.

        Args:
            images: one or many: paths, Pillow images, arrays or tensors (:data:`study.deploy.images.Images`).
            batch_size: images that run together. Fewer wait before each part, with the maps that it reads.

        Raises:
            UnreadableImagesError: files cannot be read.
            UserError: something else is no image, or ``batch_size`` is below 1.
        """
        pixels, queues = pixels_of(images, self.preprocessing), self.queues(batch_size)
        stopped = [queues.add(self.normalized(pixels[one])) for one in batches(len(pixels), batch_size)]
        return self.prediction(*stopped, queues.flush())

    def normalized(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, C, S, S]`` from 0 to 255 as the network takes them, float32, on its device.

        Raises:
            UserError: the pixels have another shape.
        """
        how = self.preprocessing
        if pixels.dim() != 4 or pixels.shape[1:] != (how.channels, how.image_size, how.image_size):
            sides = f"{how.channels}, {how.image_size}, {how.image_size}"
            raise UserError(f"pixels have shape {list(pixels.shape)}, but must be [B, {sides}]")
        if self.device.type == "cuda" and pixels.device.type == "cpu":
            pixels = pixels.pin_memory()
        return pixels.to(self.device, non_blocking=True).to(torch.float32).sub(self._mean).div_(self._std)

    def run(self, inputs: Tensor) -> Prediction:
        """Classify one batch of normalised images ``[B, C, S, S]`` on the model's device, exit by exit."""
        queues = self.queues(max(1, len(inputs)))
        return self.prediction(queues.add(inputs), queues.flush())

    def queues(self, batch_size: int) -> PartQueues:
        """A way for images that come one batch after the other: every part runs on full batches.

        :meth:`prediction` gives the answers of the rows that it returns.

        Raises:
            UserError: ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, but must be at least 1")
        return PartQueues(self.network, batch_size)

    def prediction(self, *stopped: Rows) -> Prediction:
        """The answers of images that stopped, in the order in which they entered."""
        rows = in_order(stopped)
        return Prediction(
            classes=rows["class"].copy(),
            exits=rows["target"].copy(),
            confidences=rows["confidence"].copy(),
            names=tuple(self.class_names[one] for one in rows["class"]),
            tried=rows["tried"].copy(),
            engine_steps=rows["engine_steps"].copy(),
        )

    def flops(self, prediction: Prediction) -> Floats:
        """``[N]``: the operations of each image: segments up to its exit, heads tried, engine steps run."""
        if not prediction.tried.any():
            return np.full(len(prediction.exits), self.classic_flops)
        segments = np.cumsum(self._costs["segments"])[prediction.exits - 1]
        heads = prediction.tried @ np.asarray(self._costs["heads"], dtype=np.float64)
        return np.asarray(segments + heads + prediction.engine_steps * self._costs["engine_step"])

    @cached_property
    def classic_flops(self) -> float:
        """The operations of the whole network without exits, per image."""
        return float(self._costs["classic"])  # less than the segments of a cascade, which hold its heads


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {name!r} is unknown: use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: this machine has no GPU that torch can use")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
