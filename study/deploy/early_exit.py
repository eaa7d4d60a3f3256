"""``EarlyExit``: an exported model that classifies images and stops early."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from study.arrays import Booleans, Floats, Integers, batches
from study.deploy.folder import Export, read_export
from study.deploy.images import Images, pixels_of
from study.deploy.modules import execution_of, runnable_parts
from study.deploy.rule import Decider, confidence
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
    tried: Booleans
    """``[N, E]``: the exits whose heads ran."""
    engine_steps: Integers
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
        compact_below: images that stopped are taken out of the batch where at most this share of it goes on: 1 after
            every exit at which one stops, 0 never. Answers do not depend on it.
    """

    def __init__(self, export: Export, device: torch.device, *, compile: bool, compact_below: float) -> None:
        self.class_names, self.facts, self.device = export.class_names, export.facts, device
        self.precision, self.int8_execution = export.precision, execution_of(export, device)
        self.exit_count, self.tried, self.compact_below = export.rule.exit_count, export.tried, compact_below
        self.preprocessing, self._rule, self._costs = export.preprocessing, export.rule, export.costs
        self._parts, self._heads = runnable_parts(export, device, compiled=compile)
        self._decider = Decider(export.rule, device)
        levels = (
            torch.tensor((self.preprocessing.mean, self.preprocessing.std), dtype=torch.float32).mul_(255).to(device)
        )
        self._mean, self._std = levels[:, :, None, None]

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str = "auto", compile: bool = False, compact_below: float = 1.0
    ) -> EarlyExit:
        """Read an exported model and prepare it to run.

        Args:
            folder: that ``predictive-exit export`` wrote, with ``--format torch`` or ``all``.
            device: ``auto``, ``cpu`` or ``cuda``.
            compile: make the kernels with ``torch.compile``, at the first batch; takes seconds for each part.
            compact_below: see the class.

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
        except (ValueError, TypeError, RuntimeError, KeyError) as error:
            problem = " ".join(str(error).split())[:200]
            raise UserError(f"{folder} holds parts that cannot run together ({problem})") from None

    def predict(self, images: Images, *, batch_size: int = 256) -> Prediction:
        """Classify images.

        Args:
            images: one or many: paths, Pillow images, arrays or tensors (:data:`study.deploy.images.Images`).
            batch_size: images that run together.

        Raises:
            UnreadableImagesError: files cannot be read.
            UserError: something else is no image.
        """
        pixels = pixels_of(images, self.preprocessing)
        found = [self.run(self.normalized(pixels[one])) for one in batches(len(pixels), batch_size)]
        return self._joined(found)

    def normalized(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, C, S, S]`` from 0 to 255 as the network takes them, float32, on its device."""
        if self.device.type == "cuda" and pixels.device.type == "cpu":
            pixels = pixels.pin_memory()
        return pixels.to(self.device, non_blocking=True).to(torch.float32).sub(self._mean).div_(self._std)

    def run(self, inputs: Tensor) -> Prediction:
        """Classify one batch of normalised images ``[B, C, S, S]`` on the model's device, exit by exit.

        Scores and decisions are computed on the device. The host copies one number an image at each exit that is tried,
        and all answers once at the end.
        """
        count, exits = len(inputs), self.exit_count
        target = np.full(count, self._rule.first, dtype=np.int64)
        tried, steps = np.zeros((count, exits), dtype=np.bool_), np.zeros(count, dtype=np.int64)
        rows = np.arange(count)  # the images in the batch, in its order
        patience = _Patience(count, self.device) if self._rule.criterion == "patience" else None
        answered: list[tuple[Integers, Tensor, Tensor]] = []
        state: tuple[Tensor, ...] = (inputs,)
        with torch.inference_mode():
            for part, exit in zip(self._parts, [*self.tried, exits + 1], strict=False):
                state = part(*state)
                if exit > exits:
                    answered.append((rows[target[rows] == exit], *_answers(self._at(state[0], target[rows] == exit))))
                    break
                trying = target[rows] == exit
                who = rows[trying]
                if not len(who):
                    continue
                logits = self._heads[exit](self._at(state[0], trying))
                answers, confidences = _answers(logits)
                scores = patience.after(who, answers) if patience else self._decider.scores(logits, exit)
                actions, engine_steps = self._decider.actions(logits, scores, exit)
                answered.append((who, answers, confidences))
                tried[who, exit - 1] = True
                if engine_steps is None:
                    decided = actions.cpu().numpy()
                else:
                    decided, run = torch.stack((actions, engine_steps)).cpu().numpy()
                    steps[who] += run
                target[who] = np.where(decided == 0, exit, decided)
                going = target[rows] > exit
                left = int(going.sum())
                if not left:
                    break
                if left < len(rows) and left <= self.compact_below * len(rows):
                    index = self._index(going)
                    state, rows = tuple(one.index_select(0, index) for one in state), rows[going]
            classes, confidence = np.zeros(count, dtype=np.int64), np.zeros(count)
            if answered:
                who = np.concatenate([one[0] for one in answered])
                # A later answer of an image replaces an earlier one.
                classes[who] = torch.cat([one[1] for one in answered]).cpu().numpy()
                confidence[who] = torch.cat([one[2] for one in answered]).cpu().numpy()
        return Prediction(classes, target, confidence, self._names(classes), tried, steps)

    def flops(self, prediction: Prediction) -> Floats:
        """``[N]``: the operations of each image: segments up to its exit, heads tried, engine steps run."""
        segments = np.cumsum(self._costs["segments"])[prediction.exits - 1]
        heads = prediction.tried @ np.asarray(self._costs["heads"], dtype=np.float64)
        return np.asarray(segments + heads + prediction.engine_steps * self._costs["engine_step"])

    @cached_property
    def classic_flops(self) -> float:
        """The operations of the whole network without exits, per image."""
        return float(np.sum(self._costs["segments"]))

    def _at(self, tensor: Tensor, chosen: Booleans) -> Tensor:
        return tensor if chosen.all() else tensor.index_select(0, self._index(chosen))

    def _index(self, chosen: Booleans) -> Tensor:
        index = torch.from_numpy(np.flatnonzero(chosen))
        return index.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else index

    def _names(self, classes: Integers) -> tuple[str, ...]:
        return tuple(self.class_names[one] for one in classes)

    def _joined(self, found: Sequence[Prediction]) -> Prediction:
        if not found:
            none = np.zeros(0, dtype=np.int64)
            return Prediction(none, none, np.zeros(0), (), np.zeros((0, self.exit_count), dtype=np.bool_), none)
        fields = ("classes", "exits", "confidences", "tried", "engine_steps")
        joined: dict[str, Any] = {name: np.concatenate([getattr(one, name) for one in found]) for name in fields}
        return Prediction(**joined, names=self._names(joined["classes"]))


def _answers(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Classes and confidences of logits ``[B, C]``."""
    return logits.argmax(dim=1), confidence(logits, "max_softmax")


class _Patience:
    """The number of tried exits in a row with the same answer, of each image of a batch."""

    def __init__(self, count: int, device: torch.device) -> None:
        self._last = torch.full((count,), -1, dtype=torch.int64, device=device)
        self._run = torch.zeros(count, dtype=torch.float64, device=device)

    def after(self, who: Integers, answers: Tensor) -> Tensor:
        """``[B]`` float64: the scores of images that have just got these answers."""
        index = torch.from_numpy(who).to(answers.device)
        run = torch.where(self._last[index] == answers, self._run[index] + 1, 1.0)
        self._last[index], self._run[index] = answers, run
        return run


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {name!r} is unknown: use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: this machine has no GPU that torch can use")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
