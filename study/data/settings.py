"""What a data set is asked for, and what comes back: plain values, no file is touched here."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from study.errors import UserError
from study.storage.strict_json import from_fields

LARGEST_IMAGE = 4096
SMALLEST_IMAGE = 8  # pixels a side: below it, a crop padding of an eighth of the side would be nothing


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What is known of a data set before any file is read."""

    image_size: int  # default side in pixels
    channels: int  # default
    flip: bool  # whether a mirrored image still belongs to its class


DATASETS: Mapping[str, DatasetFacts] = {
    "digits": DatasetFacts(image_size=32, channels=1, flip=False),
    "cifar10": DatasetFacts(image_size=32, channels=3, flip=True),
    "cifar100": DatasetFacts(image_size=32, channels=3, flip=True),
    "svhn": DatasetFacts(image_size=32, channels=3, flip=False),
    "stl10": DatasetFacts(image_size=96, channels=3, flip=True),
    "fashion_mnist": DatasetFacts(image_size=32, channels=1, flip=True),
    "image_folder": DatasetFacts(image_size=32, channels=3, flip=True),
}


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What the user asks for. `None` stands for the data set's default; `resolve` fills it in."""

    name: str  # a key of DATASETS
    image_size: int | None = None  # side in pixels
    channels: int | None = None  # 1 or 3; grey is repeated, colour becomes ITU-R 601 luma
    calibration: float = 0.1  # share of the training part
    validation: float = 0.1  # share of the training part
    limit: int | None = None  # at most this many images of the training part, stratified, drawn by `seed`
    test_limit: int | None = None  # likewise of the test part, but drawn the same for every seed
    folder: str | None = None  # image_folder only: absolute, or below the data root
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """What a checkpoint records of its data and what inference needs. All values can be written as JSON.

    `mean` and `std` are per channel, of pixels / 255, over the train split only. `digest` is a sha256 over
    the source bytes of the training part, the decode settings and the split indices; where the files lie
    does not enter it. `settings` are the resolved `DataSettings`.
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

    def __post_init__(self) -> None:
        # JSON knows no tuples: a DataInfo read back must equal the one that was written.
        for field in ("class_names", "mean", "std"):
            object.__setattr__(self, field, tuple(getattr(self, field)))

    def to_json(self) -> dict[str, Any]:
        """The fields as a dict that `json.dumps` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "DataInfo":
        """The inverse of `to_json`, also after a way through JSON text.

        Raises:
            ValueError, TypeError: these are no such fields, or they contradict each other.
        """
        tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        info = from_fields(cls, tuples)
        if not 1 <= info.image_size <= LARGEST_IMAGE:
            raise ValueError(f"image_size: expected 1 to {LARGEST_IMAGE}, got {info.image_size}")
        if not info.class_names or {len(info.mean), len(info.std)} != {info.channels} or min(info.std) <= 0:
            raise ValueError("class_names, mean or std is not as channels and classes need it")
        return info


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """One split: images `[N, C, H, W]` uint8 and labels `[N]` int64."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        """sha256 over shape, pixels and labels: names exactly these images, in this order."""
        content = hashlib.sha256(repr(self.images.shape).encode())
        content.update(np.ascontiguousarray(self.images).data)
        content.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return content.hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """The three splits that are cut from the training part. The test part is not here, on purpose."""

    info: DataInfo
    train: ImageSet
    calibration: ImageSet
    validation: ImageSet


def resolve(settings: DataSettings) -> DataSettings:
    """The settings with the data set's defaults filled in. Touches no file; resolving twice changes nothing.

    Raises:
        UserError: unknown name, or a size, share, limit, seed or folder that cannot be.
    """
    if settings.name not in DATASETS:
        raise UserError(f"unknown data set {settings.name!r}: choose one of {', '.join(DATASETS)}")
    facts = DATASETS[settings.name]
    resolved = replace(
        settings,
        image_size=facts.image_size if settings.image_size is None else settings.image_size,
        channels=facts.channels if settings.channels is None else settings.channels,
    )
    where = f"data set {resolved.name!r}"
    _require_integer(where, "image_size", resolved.image_size, SMALLEST_IMAGE, LARGEST_IMAGE)
    if type(resolved.channels) is not int or resolved.channels not in (1, 3):  # True == 1, 3.0 == 3
        raise UserError(f"{where}: channels must be 1 or 3, not {resolved.channels!r}")
    for field in ("calibration", "validation"):
        share = getattr(resolved, field)
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
            raise UserError(f"{where}: {field} must be a share between 0 and 1, both excluded, not {share!r}")
    if resolved.calibration + resolved.validation >= 1:
        raise UserError(
            f"{where}: calibration {resolved.calibration} and validation {resolved.validation} leave nothing "
            "to train on: their sum must be below 1"
        )
    for field in ("limit", "test_limit"):
        if getattr(resolved, field) is not None:
            _require_integer(where, field, getattr(resolved, field), 1)
    _require_integer(where, "seed", resolved.seed, 0)
    if resolved.name == "image_folder":
        if not isinstance(resolved.folder, str) or not resolved.folder:
            raise UserError(
                f"{where}: name the folder of the images with --folder, or as data.folder in the study file"
            )
    elif resolved.folder is not None:
        raise UserError(f"{where}: folder is for the data set image_folder only; leave it out here")
    return resolved


def _require_integer(where: str, field: str, value: object, least: int, most: int = 2**63 - 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UserError(f"{where}: {field} must be a whole number from {least} to {most}, not {value!r}")
