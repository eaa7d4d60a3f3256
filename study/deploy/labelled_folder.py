"""Images with known classes: a folder with a folder for each class, and the scores of a model on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from results.intervals import wilson_interval
from study.arrays import Integers, balanced
from study.data.image_files import image_endings
from study.data.settings import ImageSet
from study.deploy.early_exit import EarlyExit
from study.deploy.folder import Preprocessing
from study.deploy.image_stream import Problem, answered_images, decoded_batches, images_under
from study.errors import UserError

Told = Callable[[Problem], None]
"""Gets each image that cannot be read and is passed over."""


@dataclass(frozen=True, eq=False)
class LabelledFolder:
    """A folder whose subfolders have the names of classes.

    Args:
        root: the folder.
        class_names: of the model, in the order of their numbers.

    Raises:
        UserError: the folder has no subfolders, or one with another name than a class.
    """

    root: Path
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise UserError(f"image folder {self.root} is not there: name a folder with one folder for each class")
        found = {one.name for one in self.root.iterdir() if one.is_dir() and not one.name.startswith(".")}
        if not found:
            raise UserError(f"image folder {self.root} has no class folders: it needs one for each of {self._classes}")
        if others := sorted(found - set(self.class_names)):
            shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
            raise UserError(
                f"image folder {self.root} has folders that are no class of the model: {shown}; its classes"
                f" are {self._classes}"
            )

    @property
    def _classes(self) -> str:
        names = self.class_names
        return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")

    def images(self) -> Iterator[Path | Problem]:
        """The images of all classes, in the order of the classes; before them, images that lie in no class folder."""
        files = sorted(path for path in self.root.iterdir() if not path.name.startswith("."))
        beside = [path for path in files if path.suffix.lower() in image_endings() and path.is_file()]
        yield from (Problem(path, "it lies in no folder of a class") for path in beside)
        yield from images_under(self.root / name for name in self.class_names if (self.root / name).is_dir())

    def labels_of(self, paths: Sequence[Path]) -> Integers:
        """``[N]``: the numbers of the classes."""
        numbers = {name: number for number, name in enumerate(self.class_names)}
        return np.array([numbers[path.relative_to(self.root).parts[0]] for path in paths], dtype=np.int64)

    def read(self, how: Preprocessing, told: Told) -> ImageSet:
        """All images as one split, in memory.

        Raises:
            UserError: no image can be read.
        """
        squares, paths = [], list[Path]()
        for batch in decoded_batches(self.images(), how, 256):
            for problem in batch.problems:
                told(problem)
            squares += batch.squares
            paths += batch.paths
        if not paths:
            raise UserError(f"image folder {self.root} holds no image that can be read")
        return ImageSet(images=np.stack(squares), labels=self.labels_of(paths))


def evaluate_export(model: EarlyExit, folder: LabelledFolder, *, batch_size: int, told: Told) -> dict[str, Any]:
    """The figures of an exported model on the images of a folder.

    Raises:
        UserError: no image can be read.
    """
    labels, predictions, seconds, flops = list[Integers](), [], 0.0, list[Any]()
    for found in answered_images(model, folder.images(), batch_size):
        for problem in found.problems:
            told(problem)
        seconds += found.seconds
        if found.paths:
            predictions.append(found.prediction)
            flops.append(model.flops(found.prediction))
            labels.append(folder.labels_of(found.paths))
    if not predictions:
        raise UserError(f"image folder {folder.root} holds no image that can be read")
    truth, exits = np.concatenate(labels), np.concatenate([one.exits for one in predictions])
    answers, mean_flops = np.concatenate([one.classes for one in predictions]), float(np.concatenate(flops).mean())
    return {
        **accuracy_of(truth, answers),
        "precision": model.precision,
        "int8_execution": model.int8_execution,
        "flops": mean_flops,
        "flops_share_of_classic": mean_flops / model.classic_flops,
        "mean_exit": float(exits.mean()),
        "wall_clock_seconds_per_image": seconds / len(truth),
        "classes": class_scores(truth, answers, model.class_names),
    }


def accuracy_of(labels: Integers, answers: Integers) -> dict[str, Any]:
    """Number of images, and accuracy with its 95 % interval."""
    accuracy = float((labels == answers).mean())
    low, high = wilson_interval(accuracy, len(labels))
    return {
        "samples": len(labels),
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": float(balanced(labels == answers, labels)),
    }


def class_scores(labels: Integers, answers: Integers, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each class.

    ``images``: that are of the class. ``answers``: that the model gave it. ``recall``: the share of ``images`` that got
    the class as answer, with its 95 % interval; ``precision``: the share of ``answers`` that are of the class. Both are
    None where they would divide by zero.
    """
    rows = []
    for number, name in enumerate(class_names):
        images, answered = int((labels == number).sum()), int((answers == number).sum())
        right = int(((labels == number) & (answers == number)).sum())
        low, high = wilson_interval(right / images, images) if images else (None, None)
        rows.append(
            {
                "class": name,
                "images": images,
                "answers": answered,
                "recall": right / images if images else None,
                "recall_low": low,
                "recall_high": high,
                "precision": right / answered if answered else None,
            }
        )
    return rows
