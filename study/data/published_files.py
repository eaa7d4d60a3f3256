"""Published data sets of image files: torchvision knows where their files lie and which class each has.

One adapter serves all: a class of torchvision gives paths and labels, and the images are read like those of a user.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.data.file_listing import LocalTree
from study.data.file_parts import ListedFiles, PartName, divide, listed_files
from study.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PublishedFiles:
    """How torchvision opens a data set."""

    kind: str
    """The class in ``torchvision.datasets``."""
    folder: str
    """Below the folder of data sets."""
    splits: Mapping[PartName, str]
    """Part -> the argument ``split``; empty where the data set has no parts: about a fifth is the test part."""
    samples: Callable[[Any], tuple[Any, ...]]
    """Paths and labels of an open data set."""


PUBLISHED_FILES: Mapping[str, PublishedFiles] = {
    "flowers102": PublishedFiles(
        kind="Flowers102",
        folder="flowers-102",
        splits={"train": "train", "validation": "val", "test": "test"},
        samples=lambda opened: (opened._image_files, opened._labels),
    ),
    "food101": PublishedFiles(
        kind="Food101",
        folder="food-101",
        splits={"train": "train", "test": "test"},
        samples=lambda opened: (opened._image_files, opened._labels),
    ),
    "oxford_pets": PublishedFiles(
        kind="OxfordIIITPet",
        folder="oxford-iiit-pet",
        splits={"train": "trainval", "test": "test"},
        samples=lambda opened: (opened._images, opened._labels),
    ),
    "eurosat": PublishedFiles(
        kind="EuroSAT", folder="eurosat", splits={}, samples=lambda opened: tuple(zip(*opened.samples, strict=True))
    ),
    "gtsrb": PublishedFiles(
        kind="GTSRB",
        folder="gtsrb",
        splits={"train": "train", "test": "test"},
        samples=lambda opened: tuple(zip(*opened._samples, strict=True)),
    ),
}
_SHOWN = 3


def published_files(name: str, data_root: Path, *, download: bool) -> ListedFiles:
    """List the files of a published data set, which lie in a folder of their own below ``data_root``.

    Raises:
        UserError: files are missing or damaged, or cannot be downloaded.
    """
    how = PUBLISHED_FILES[name]
    root = (data_root / how.folder).resolve()
    try:
        by_class = _by_class(how, data_root, root, download=download)
    except Exception as error:  # files may be missing, damaged or unreachable, and so are the errors of readers
        reason = " ".join(str(error).split()) or type(error).__name__
        missing = isinstance(error, RuntimeError) and "not found" in reason
        if missing and not download:
            raise UserError(
                f"data set {name!r} is not complete: put its files in {root}, or let --download fetch them"
            ) from None
        what = f"could not be downloaded to {root}" if download else f"in {root} cannot be read, fetch it anew"
        raise UserError(f"data set {name!r} {what}: {reason[:200]}") from error
    files = [file for classes in by_class.values() for of_class in classes.values() for file in of_class]
    if gone := [file for file in files if not os.path.isfile(f"{root}/{file}")]:  # noqa: PTH113 (many files)
        more = f" and {len(gone) - _SHOWN} more" if len(gone) > _SHOWN else ""
        shown = ", ".join(gone[:_SHOWN])
        raise UserError(
            f"data set {name!r}: {len(gone)} of {len(files)} images are not in {root}: {shown}{more}; fetch it anew"
        )
    if how.splits:
        return listed_files(LocalTree(root), by_class, (), named_by_path=False)
    return listed_files(LocalTree(root), divide(by_class["train"]), (), divided=True, named_by_path=False)


def _by_class(
    how: PublishedFiles, data_root: Path, root: Path, *, download: bool
) -> dict[PartName, dict[str, list[str]]]:
    """Part -> class -> sorted paths below ``root``."""
    from torchvision import datasets

    kind = getattr(datasets, how.kind)
    splits: Mapping[PartName, dict[str, str]] = {part: {"split": name} for part, name in how.splits.items()}
    found: dict[PartName, dict[str, list[str]]] = {}
    class_names: list[str] = []
    for part, arguments in (splits or {"train": {}}).items():
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            opened = kind(data_root, download=download, **arguments)
        paths, labels = how.samples(opened)
        if not class_names:
            class_names = [str(one) for one in getattr(opened, "classes", range(max(labels) + 1))]
        if len(class_names) < 2 or not 0 <= min(labels) <= max(labels) < len(class_names):
            raise ValueError("labels and classes do not belong together")
        classes: dict[str, list[str]] = {name: [] for name in class_names}
        for path, label in zip(paths, labels, strict=True):
            classes[class_names[label]].append(_below(Path(path), data_root / how.folder, root))
        found[part] = {name: sorted(files) for name, files in classes.items()}
    return found


def _below(path: Path, folder: Path, root: Path) -> str:
    """The path relative to the folder of the data set. A list of files that leads out of the folder is refused."""
    relative = path.relative_to(root if path.is_relative_to(root) else folder)
    if ".." in relative.parts:
        raise ValueError(f"{path} leads out of the folder")
    return relative.as_posix()
