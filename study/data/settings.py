"""The settings of a data set, and what is loaded by them: values only, no file is read here."""

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from search_spaces.settings import LARGEST_IMAGE, LARGEST_SEED, DataFields, Description, first_problem
from study.errors import UserError
from study.storage.strict_json import from_fields


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What is known of a data set before any file is read."""

    image_size: int
    """Default side in pixels."""
    channels: Literal[1, 3]
    """Default."""
    flip: bool
    """Whether a mirrored image still belongs to its class."""


DATASETS: Mapping[str, DatasetFacts] = {
    "digits": DatasetFacts(image_size=32, channels=1, flip=False),
    "cifar10": DatasetFacts(image_size=32, channels=3, flip=True),
    "cifar100": DatasetFacts(image_size=32, channels=3, flip=True),
    "svhn": DatasetFacts(image_size=32, channels=3, flip=False),
    "stl10": DatasetFacts(image_size=96, channels=3, flip=True),
    "fashion_mnist": DatasetFacts(image_size=32, channels=1, flip=True),
    "flowers102": DatasetFacts(image_size=224, channels=3, flip=True),
    "food101": DatasetFacts(image_size=224, channels=3, flip=True),
    "oxford_pets": DatasetFacts(image_size=224, channels=3, flip=True),
    "eurosat": DatasetFacts(image_size=64, channels=3, flip=True),
    "gtsrb": DatasetFacts(image_size=32, channels=3, flip=False),
    "image_folder": DatasetFacts(image_size=32, channels=3, flip=True),
}


@dataclass(frozen=True, kw_only=True)
class DataSettings(DataFields):
    """Which images, and how they are cut into splits: the fields of :class:`DataFields`, and the seed of the cut.

    None stands for the default of the data set; :func:`resolve` fills the default in, and checks all values.
    """

    seed: Annotated[int, Description("seed of the splits", least=0, most=LARGEST_SEED)] = 0


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """What a checkpoint records of its data, and what inference needs. All values can be written as JSON.

    ``mean`` and ``std`` are per channel, of pixels / 255, over the train split only. ``digest`` is a sha256 over the
    source bytes of the training part, the decode settings and the split indices. The place of the files is no part of
    the digest. ``settings`` are the resolved :class:`DataSettings`.
    """

    name: str
    image_size: int
    channels: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    crop_padding: int
    digest: str
    settings: dict[str, object]

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "DataInfo":
        """The inverse of :func:`dataclasses.asdict`, also after a way through JSON text, which has no tuples.

        Raises:
            ValueError, TypeError: the fields are not those of this class, or contradict each other.
        """
        tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        info = from_fields(cls, tuples)
        if not 1 <= info.image_size <= LARGEST_IMAGE:
            raise ValueError(f"image_size: expected 1 to {LARGEST_IMAGE}, got {info.image_size}")
        if not info.class_names or {len(info.mean), len(info.std)} != {info.channels} or min(info.std) <= 0:
            raise ValueError("class_names, mean or std is not as channels and classes need it")
        return info


@dataclass(frozen=True, kw_only=True)
class Origin:
    """From where another process, on this machine or another one, gets the images of a split."""

    entry: str
    """The name in the cache of each machine: it tells names, bytes and size of the images."""
    source: str
    """As of the images."""
    shape: tuple[int, int, int, int]
    """Of the images."""
    settings: DataSettings
    data_root: Path
    split: str

    @property
    def place(self) -> str:
        """The folder, table or data set, for messages."""
        return self.settings.folder or self.settings.table or self.settings.name

    def load(self) -> npt.NDArray[np.uint8]:
        """The images, from the cache of this machine. One process of a machine decodes what the cache lacks.

        Raises:
            UserError: this machine finds no images at their place, or other ones.
        """
        from study.data.image_cache import ImageCache

        cache = ImageCache.of_machine()
        with cache.alone(self.entry) if cache else nullcontext():
            if cache and (found := cache.find(self.entry, self.shape)):
                return found.images
            from study.data.loading import load_split  # imports torch, which takes seconds

            loaded = load_split(self.settings, self.data_root, self.split)
        if loaded.source != self.source:
            raise UserError(f"{self.place}: this machine finds other images there than the one that started the study")
        return loaded.images


pickled_by_value: ContextVar[bool] = ContextVar("pickled_by_value", default=False)
"""Whether images are pickled themselves, for machines that cannot read their source; otherwise mapped images are
pickled as their origin."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """One split: images ``[N, C, H, W]`` uint8 and labels ``[N]`` int64."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    origin: Origin | None = None
    """None where the images are in the memory of this process alone."""
    source: str = ""
    """A digest of what the images were made from, as far as it is known."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Processes of a machine share the pages of a mapped file; a copy of the images would be for each."""
        if self.origin is not None and not pickled_by_value.get():
            return _from_origin, (self.origin, self.labels)
        return _of_arrays, (self.images, self.labels, self.source)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        """sha256 over shape, pixels and labels: the name of exactly these images in this order."""
        content = hashlib.sha256(repr(self.images.shape).encode())
        content.update(np.ascontiguousarray(self.images).data)
        content.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return content.hexdigest()


def _of_arrays(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], source: str) -> ImageSet:
    return ImageSet(images=images, labels=labels, source=source)


def _from_origin(origin: Origin, labels: npt.NDArray[np.int64]) -> ImageSet:
    return ImageSet(images=origin.load(), labels=labels, origin=origin, source=origin.source)


@dataclass(frozen=True, eq=False)
class ReadPart:
    """Images that were read from their source."""

    images: npt.NDArray[np.uint8]
    """``[N, C, H, W]``."""
    source: str
    """A digest of what the images were made from."""
    deepest: int = 0
    """The largest value of a grey of 16 bits; 0 where there is none."""
    entry: str = ""
    """The name in the cache of the images that ``images`` maps; empty where they are in memory."""
    mean: tuple[float, ...] = ()
    """As in :class:`DataInfo`; empty where it is not known yet."""
    std: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """The splits that are cut from the training part. The test part is left out on purpose."""

    info: DataInfo
    train: ImageSet
    calibration: ImageSet
    validation: ImageSet
    certification: ImageSet | None = None
    """None where the settings give it no share."""
    notes: tuple[str, ...] = ()
    """What a user should know of the images: passed over, limits, uneven classes."""
    test_images: int | None = None
    """The number of test images; None where it is not known from the listing of the training images."""

    @property
    def splits(self) -> dict[str, ImageSet]:
        """The splits that there are, by name."""
        names = ("train", "calibration", "validation", "certification")
        return {name: split for name in names if (split := getattr(self, name)) is not None}

    @property
    def image_counts(self) -> dict[str, int]:
        """The number of classes, and of images of each split."""
        return {
            "classes": len(self.info.class_names),
            **{name: len(images) for name, images in self.splits.items()},
        }


def resolve(settings: DataSettings) -> DataSettings:
    """The settings with the defaults of the data set filled in. No file is read; resolving twice changes nothing.

    Raises:
        UserError: the name is unknown, or a value is not allowed.
    """
    if settings.name not in DATASETS:
        raise UserError(f"unknown data set {settings.name!r}: choose one of {', '.join(DATASETS)}")
    facts = DATASETS[settings.name]
    resolved = replace(
        settings,
        image_size=facts.image_size if settings.image_size is None else settings.image_size,
        channels=facts.channels if settings.channels is None else settings.channels,
        certification=0.0 if settings.certification is None else settings.certification,
    )
    where = f"data set {resolved.name!r}"
    if problem := first_problem(resolved):
        raise UserError(f"{where}: {problem}")
    if resolved.normalization == "imagenet" and resolved.channels != 3:
        raise UserError(f"{where}: normalization imagenet is for images of 3 channels: set channels to 3")
    if resolved.calibration + resolved.validation + (resolved.certification or 0.0) >= 1:
        certified = f", certification {resolved.certification}" if resolved.certification else ""
        raise UserError(
            f"{where}: calibration {resolved.calibration} and validation {resolved.validation}{certified} leave "
            "nothing to train on: their sum must be below 1"
        )
    places = [name for name in ("folder", "table") if getattr(resolved, name)]
    if resolved.name != "image_folder" and places:
        raise UserError(f"{where}: {places[0]} is for the data set image_folder only; leave it out here")
    if resolved.name == "image_folder" and not places:
        raise UserError(
            f"{where}: name the folder of the images with --folder, or as data.folder in the study file; "
            "or a table of them with --table, or as data.table"
        )
    if len(places) == 2:
        raise UserError(f"{where}: give folder or table, not both: the table names the images")
    return resolved
