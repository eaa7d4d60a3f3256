"""Load a data set: the splits of its training part, and, by a function of its own, its test part."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np

from study.data.array_sources import ArrayPart, array_part
from study.data.file_parts import FilePart, ListedFiles
from study.data.image_files import UnreadableImagesError
from study.data.image_folder import image_folder
from study.data.image_modes import WHITE_LEVEL
from study.data.image_table import image_table
from study.data.pixels import mean_and_std
from study.data.published_files import PUBLISHED_FILES, published_files
from study.data.settings import DATASETS, DataInfo, Dataset, DataSettings, ImageSet, Origin, ReadPart, resolve
from study.data.splits import Indices, cut, limited_test_part
from study.errors import UserError
from study.storage.home import user_location, user_path

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of most weights that are published, torchvision's among them."""
_DIGEST_FORMAT = 1  # to be raised when the same settings, bytes and split indices give other pixels
_UNEVEN = 5
"""Classes are called uneven where the largest has so many times the images of the smallest."""


def load_dataset(
    settings: DataSettings, data_root: Path, *, download: bool = False, check_test: bool = False
) -> Dataset:
    """Load the splits of the training part of a data set: train, calibration, validation, perhaps certification.

    Args:
        data_root: folder of data sets.
        download: fetch missing files.
        check_test: also read the test images, and forget them: a damaged one is told before anything is computed.
            Otherwise no test image is opened. (The test files of a flat image folder are listed among the others.)

    Raises:
        UserError: wrong settings; files missing, damaged or too few.
    """
    settings = resolve(settings)
    image_size, channels = settings.image_size, settings.channels
    assert image_size is not None and channels is not None
    files = _listed(settings, data_root, download=download)
    part = _open_part("train", settings, data_root, files, download=download)
    own_validation = files.parts.get("validation") if files else None
    indices = cut(
        part.labels,
        part.class_names,
        calibration=settings.calibration,
        validation=None if own_validation else settings.validation,
        certification=settings.certification or 0.0,
        limit=settings.limit,
        seed=settings.seed,
        test_sizes=part.test_sizes,
    )
    if own_validation:
        indices["validation"] = np.arange(len(own_validation.labels))
    digest = hashlib.sha256(
        json.dumps([_DIGEST_FORMAT, settings.name, image_size, channels, part.class_names]).encode()
    )
    splits: dict[str, ImageSet] = {}
    unreadable: list[str] = []
    parts_read: dict[str, ReadPart] = {}
    for split, chosen in indices.items():
        source = own_validation if own_validation and split == "validation" else part
        try:
            read = source.read(chosen, settings)
        except UnreadableImagesError as error:
            unreadable += error.problems
            continue
        splits[split] = _image_set(read, source.labels[chosen], settings, data_root, split)
        parts_read[split] = read
        digest.update(f"{split} {len(chosen)} {read.source}".encode())
        digest.update(np.ascontiguousarray(chosen, dtype="<i8").data)
    if check_test:
        try:
            _read_test_part(settings, data_root, files, download=download)
        except UnreadableImagesError as error:
            unreadable += error.problems
    if unreadable:
        raise UnreadableImagesError(unreadable)
    _refuse_dark_greys(settings, max(read.deepest for read in parts_read.values()))
    trained = parts_read["train"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    if settings.normalization == "imagenet":
        digest.update(b"normalization imagenet")
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    else:
        mean, std = (trained.mean, trained.std) if trained.mean else mean_and_std(trained.images)
    info = DataInfo(
        name=settings.name,
        image_size=image_size,
        channels=channels,
        class_names=part.class_names,
        mean=mean,
        std=std,
        flip=DATASETS[settings.name].flip,
        crop_padding=image_size // 8,
        digest=digest.hexdigest(),
        settings=asdict(settings),
    )
    test = files.parts["test"].labels if files else None
    return Dataset(
        info=info,
        notes=(*(files.notes if files else ()), *_notes(settings, part, test)),
        test_images=None if test is None else len(limited_test_part(test, len(part.class_names), settings.test_limit)),
        **splits,
    )


def load_test_set(settings: DataSettings, data_root: Path, *, download: bool = False) -> ImageSet:
    """Load the test part, with the class order of :func:`load_dataset`. The seed does not change the test part.

    The test part is the official test split; of digits, a fixed fifth of each class; of own images without a test part,
    about a fifth (:func:`study.data.file_parts.divide`).

    Raises:
        UserError: as :func:`load_dataset`.
    """
    settings = resolve(settings)
    return _read_test_part(settings, data_root, _listed(settings, data_root, download=download), download=download)


def count_test_images(settings: DataSettings, data_root: Path, *, download: bool = False) -> int:
    """The number of images that :func:`load_test_set` would load. Only labels and names of files are read."""
    settings = resolve(settings)
    return len(_test_part(settings, data_root, _listed(settings, data_root, download=download), download=download)[1])


def _read_test_part(settings: DataSettings, data_root: Path, files: ListedFiles | None, *, download: bool) -> ImageSet:
    part, chosen = _test_part(settings, data_root, files, download=download)
    return _image_set(part.read(chosen, settings), part.labels[chosen], settings, data_root, "test")


def _image_set(read: ReadPart, labels: Indices, settings: DataSettings, data_root: Path, split: str) -> ImageSet:
    origin = None
    if read.entry:
        count, channels, height, width = read.images.shape
        origin = Origin(
            entry=read.entry,
            source=read.source,
            shape=(count, channels, height, width),
            settings=settings,
            data_root=data_root.absolute(),
            split=split,
        )
    return ImageSet(images=read.images, labels=labels, origin=origin, source=read.source)


def load_split(settings: DataSettings, data_root: Path, split: str) -> ImageSet:
    """Load one split by its name, ``test`` included; errors as of :func:`load_dataset`."""
    if split == "test":
        return load_test_set(settings, data_root)
    images: ImageSet = getattr(load_dataset(settings, data_root), split)
    return images


def _test_part(
    settings: DataSettings, data_root: Path, files: ListedFiles | None, *, download: bool
) -> tuple[ArrayPart | FilePart, Indices]:
    part = _open_part("test", settings, data_root, files, download=download)
    return part, limited_test_part(part.labels, len(part.class_names), settings.test_limit)


def _open_part(
    name: Literal["train", "test"],
    settings: DataSettings,
    data_root: Path,
    files: ListedFiles | None,
    *,
    download: bool,
) -> ArrayPart | FilePart:
    return files.parts[name] if files else array_part(settings.name, name, user_path(data_root), download=download)


def _listed(settings: DataSettings, data_root: Path, *, download: bool) -> ListedFiles | None:
    """The files of a data set; None for a data set of arrays."""
    if settings.name in PUBLISHED_FILES:
        return published_files(settings.name, user_path(data_root), download=download)
    if settings.table is not None:
        return image_table(user_location(settings.table, below=data_root))
    if settings.folder is not None:
        return image_folder(user_location(settings.folder, below=data_root))
    return None


def _notes(settings: DataSettings, part: ArrayPart | FilePart, test: Indices | None) -> list[str]:
    """Limits that leave images out, and classes of very different sizes."""
    notes = []
    if settings.limit is not None and settings.limit < len(part.labels):
        notes.append(f"limit: {settings.limit} of {len(part.labels)} images of the training part are used")
    if settings.test_limit is not None and test is not None and settings.test_limit < len(test):
        notes.append(f"test_limit: {settings.test_limit} of {len(test)} images of the test part are used")
    sizes = np.bincount(part.labels, minlength=len(part.class_names))
    if sizes.max() >= _UNEVEN * sizes.min():
        large, small = int(sizes.argmax()), int(sizes.argmin())
        share = sizes[large] / sizes.sum()
        notes.append(
            f"classes are uneven: {part.class_names[large]!r} has {sizes[large]} images of the training part, "
            f"{part.class_names[small]!r} has {sizes[small]}: the answer {part.class_names[large]!r} alone "
            f"is right for {share:.1%} of them"
        )
    return notes


def _refuse_dark_greys(settings: DataSettings, deepest: int) -> None:
    """Refuse greys of 16 bits that use less than a quarter of the range: they were stored with fewer bits."""
    if settings.white_level is None and 0 < deepest <= WHITE_LEVEL // 4:
        bits = max(8, deepest.bit_length())
        raise UserError(
            f"data set {settings.name!r}: its greys of 16 bits reach {deepest} of {WHITE_LEVEL} only, and would be "
            f"nearly black: set white_level to {2**bits - 1} ({bits} bits), or to {WHITE_LEVEL} if images are so dark"
        )
