"""Data sets of arrays: the digits of scikit-learn, and CIFAR, SVHN, STL-10 and Fashion-MNIST of torchvision.

Each part (training or test) opens its own files only. Loading the training part therefore reads no test image.
"""

import contextlib
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from study.data.pixels import Pixels, convert_channels, resize
from study.data.splits import Indices, fixed_test_part
from study.errors import UserError

_DIGITS = tuple(str(digit) for digit in range(10))
_STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrayPart:
    """The training or the test part: raw images ``[N, C, S, S]`` uint8 as published, labels ``[N]``."""

    name: str
    raw: Pixels
    labels: Indices
    class_names: tuple[str, ...]
    test_sizes: Indices | None = None
    """``[C]``: images of each class of the digits that belong to the test part."""

    def read(self, indices: Indices, *, image_size: int, channels: int) -> tuple[Pixels, str]:
        """Images ``[len(indices), channels, image_size, image_size]`` and the sha256 of their source.

        Digits of 8x8 pixels are enlarged by repeating pixels where ``image_size`` is a multiple of 8. Images of
        Fashion-MNIST (28x28) are padded with zeros to 32x32, unless ``image_size`` is 28. All other resizing is
        bilinear.
        """
        raw = np.ascontiguousarray(self.raw[indices])
        source = hashlib.sha256(repr(raw.shape).encode())
        source.update(raw.data)
        source.update(np.ascontiguousarray(self.labels[indices], dtype="<i8").data)
        images = convert_channels(raw, channels)
        if self.name == "digits" and image_size % images.shape[2] == 0:
            scale = image_size // images.shape[2]
            images = images.repeat(scale, axis=2).repeat(scale, axis=3)
        if self.name == "fashion_mnist" and image_size != images.shape[2]:
            images = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
        return resize(images, image_size), source.hexdigest()


def array_part(name: str, part: str, root: Path, *, download: bool) -> ArrayPart:
    """Open a part of a data set of arrays.

    Args:
        part: ``train`` or ``test``.
        root: folder of the files.

    Raises:
        UserError: files are missing or damaged, or cannot be downloaded.
    """
    if name == "digits":
        return _digits(part)
    reader = _reader(name, part, root)
    missing = [file for file, _ in reader.files if not (reader.folder / file).is_file()]
    if missing and not download:
        raise UserError(
            f"data set {name!r} is not complete: put {', '.join(missing)} in {reader.folder}, "
            "or let --download fetch it"
        )
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            opened = reader.open(download=download)
            raw, labels = _arrays(name, opened)
    except Exception as error:  # files may be missing, damaged or unreachable, and so are the errors of readers
        raise UserError(_why_unreadable(name, reader, error, download=download)) from error
    class_names = {"svhn": _DIGITS, "stl10": _STL10_CLASSES}.get(name) or tuple(opened.classes)
    if raw.shape[0] != labels.shape[0] or (labels.size and not 0 <= labels.min() <= labels.max() < len(class_names)):
        raise UserError(f"data set {name!r}: images and labels in {reader.folder} do not belong together")
    return ArrayPart(name=name, raw=raw, labels=labels, class_names=class_names)


def _digits(part: str) -> ArrayPart:
    """1,797 digits of 8x8 pixels with levels 0..16. A fixed fifth of each class is the test part."""
    from sklearn.datasets import load_digits

    levels, labels = load_digits(return_X_y=True)
    raw = np.floor(levels.reshape(-1, 1, 8, 8) * 255 / 16 + 0.5).astype(np.uint8)
    test = fixed_test_part(labels.astype(np.int64), len(_DIGITS))
    chosen = test if part == "test" else np.delete(np.arange(len(labels)), test)
    return ArrayPart(
        name="digits",
        raw=raw[chosen],
        labels=labels[chosen].astype(np.int64),
        class_names=_DIGITS,
        test_sizes=np.bincount(labels[test], minlength=len(_DIGITS)),
    )


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """How torchvision opens one part: ``open(download=...)``, and the files (name, md5 or None) in ``folder``."""

    open: Callable[..., Any]
    folder: Path
    files: tuple[tuple[str, str | None], ...]


def _reader(name: str, part: str, root: Path) -> _Reader:
    """The class of torchvision, restricted to the files of one part. STL-10 then needs no unlabelled images (2.6 GB).

    The restricted class keeps the name of the original: torchvision names the folder of Fashion-MNIST by the class.
    """
    from torchvision import datasets

    train = part == "train"
    if name == "svhn":
        _, file, md5 = datasets.SVHN.split_list[part]
        return _Reader(open=partial(datasets.SVHN, root, split=part), folder=root, files=((file, md5),))
    if name == "stl10":
        lists = {"train_list": datasets.STL10.train_list[:2], "test_list": []}
        if not train:
            lists = {"train_list": [], "test_list": datasets.STL10.test_list}
        stl10: Any = type("STL10", (datasets.STL10,), lists)
        files = tuple((file, md5) for file, md5 in [*lists["train_list"], *lists["test_list"]])
        return _Reader(open=partial(stl10, root, split=part), folder=root / stl10.base_folder, files=files)
    if name == "fashion_mnist":
        prefix = "train" if train else "t10k"
        resources = [entry for entry in datasets.FashionMNIST.resources if entry[0].startswith(prefix)]
        fashion: Any = type("FashionMNIST", (datasets.FashionMNIST,), {"resources": resources})
        files = tuple((file.removesuffix(".gz"), None) for file, _ in resources)  # md5 is of the .gz only
        return _Reader(open=partial(fashion, root, train=train), folder=root / "FashionMNIST" / "raw", files=files)
    published = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    cifar: Any = type(published.__name__, (published,), {"test_list" if train else "train_list": []})
    meta = (cifar.meta["filename"], cifar.meta["md5"])
    files = (*((file, md5) for file, md5 in [*cifar.train_list, *cifar.test_list]), meta)
    return _Reader(open=partial(cifar, root, train=train), folder=root / cifar.base_folder, files=files)


def _arrays(name: str, opened: Any) -> tuple[Pixels, Indices]:
    """Images ``[N, C, S, S]`` uint8 and labels ``[N]`` int64 out of an open torchvision data set, in bulk."""
    if name == "fashion_mnist":
        return opened.data.numpy()[:, None], opened.targets.numpy().astype(np.int64)
    if name in ("svhn", "stl10"):
        return opened.data, np.asarray(opened.labels, dtype=np.int64)
    return opened.data.transpose(0, 3, 1, 2), np.asarray(opened.targets, dtype=np.int64)


def _why_unreadable(name: str, reader: _Reader, error: Exception, *, download: bool) -> str:
    """A line that names the damaged files; the messages of torchvision do not."""
    from torchvision.datasets.utils import check_integrity

    paths = [(reader.folder / file, md5) for file, md5 in reader.files]
    damaged = [str(path) for path, md5 in paths if path.is_file() and not check_integrity(path, md5)]
    reason = " ".join(str(error).split()) or type(error).__name__
    if damaged:
        return (
            f"data set {name!r}: {', '.join(damaged)} differs from the published file (checksum): "
            "delete it and let --download fetch it"
        )
    if download and not all(path.is_file() for path, _ in paths):
        return f"data set {name!r} could not be downloaded to {reader.folder}: {reason}"
    return f"data set {name!r} in {reader.folder} cannot be read, fetch it anew: {reason}"
