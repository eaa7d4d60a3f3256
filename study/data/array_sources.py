"""Data sets of arrays: the digits of scikit-learn, and CIFAR, SVHN, STL-10 and Fashion-MNIST of torchvision.

Each part opens its own files only: loading the training part reads no test image.
"""

import contextlib
import importlib.util
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from study.data.pixels import Pixels, convert_channels, resize
from study.data.settings import DataSettings, ImageSet, ReadPart
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

    def read(self, indices: Indices, settings: DataSettings) -> ReadPart:
        """Pixels of some of the images, in the size and channels of resolved settings.

        Digits of 8x8 pixels are enlarged by repeating pixels where ``image_size`` is a multiple of 8. Images of
        Fashion-MNIST (28x28) are padded with zeros to 32x32, unless ``image_size`` is 28. All other resizing is
        bilinear.
        """
        assert settings.image_size is not None and settings.channels is not None
        image_size, channels = settings.image_size, settings.channels
        raw = np.ascontiguousarray(self.raw[indices])
        source = ImageSet(images=raw, labels=self.labels[indices])
        images = convert_channels(raw, channels)
        if self.name == "digits" and image_size % images.shape[2] == 0:
            scale = image_size // images.shape[2]
            images = images.repeat(scale, axis=2).repeat(scale, axis=3)
        if self.name == "fashion_mnist" and image_size != images.shape[2]:
            images = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
        return ReadPart(resize(images, image_size), source.digest)


def array_part(name: str, part: str, root: Path, *, download: bool) -> ArrayPart:
    """Open the part ``train`` or ``test`` of a data set of arrays, whose files lie in the folder ``root``.

    Raises:
        UserError: files are missing or damaged, or cannot be downloaded.
    """
    if name == "digits":
        return _digits(part)
    open_part, folder, files = _reader(name, part, root)
    missing = [file for file in files if not (folder / file).is_file()]
    if missing and not download:
        raise UserError(
            f"data set {name!r} is not complete: put {', '.join(missing)} in {folder}, or let --download fetch it"
        )
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            opened = open_part(download=download)
            raw, labels = _arrays(name, opened)
        class_names = {"svhn": _DIGITS, "stl10": _STL10_CLASSES}.get(name) or tuple(opened.classes)
        if len(raw) != len(labels) or (labels.size and not 0 <= labels.min() <= labels.max() < len(class_names)):
            raise ValueError("images and labels do not belong together")
    except Exception as error:  # files may be missing, damaged or unreachable, and so are the errors of readers
        raise UserError(f"data set {name!r} {_why_unreadable(folder, files, error, download=download)}") from error
    return ArrayPart(name=name, raw=raw, labels=labels, class_names=class_names)


def read_digits() -> tuple[Pixels, Indices]:
    """The digits of scikit-learn's ``load_digits``: ``[1797, 1, 8, 8]`` uint8 from levels 0..16, and their labels.

    They are read from its file: importing scikit-learn takes over a second.
    """
    package = importlib.util.find_spec("sklearn")
    assert package is not None and package.origin is not None, "scikit-learn is a dependency"
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)  # seven times as fast as floats
    levels = rows[:, :-1].reshape(-1, 1, 8, 8).astype(np.float64)
    return np.floor(levels * 255 / 16 + 0.5).astype(np.uint8), rows[:, -1].astype(np.int64)


def _digits(part: str) -> ArrayPart:
    """A fixed fifth of each class is the test part."""
    raw, labels = read_digits()
    test = fixed_test_part(labels, len(_DIGITS))
    chosen = test if part == "test" else np.delete(np.arange(len(labels)), test)
    return ArrayPart(
        name="digits",
        raw=raw[chosen],
        labels=labels[chosen],
        class_names=_DIGITS,
        test_sizes=np.bincount(labels[test], minlength=len(_DIGITS)),
    )


def _reader(name: str, part: str, root: Path) -> tuple[Callable[..., Any], Path, dict[str, str | None]]:
    """How torchvision opens one part: ``open(download=...)``, the folder of the files, and their md5 sums, if known.

    The class of torchvision is restricted to the files of the part. STL-10 then needs no unlabelled images (2.6 GB).
    The restricted class keeps the name of the original: torchvision names the folder of Fashion-MNIST by the class.
    """
    from torchvision import datasets

    train = part == "train"
    if name == "svhn":
        _, file, md5 = datasets.SVHN.split_list[part]
        return partial(datasets.SVHN, root, split=part), root, {file: md5}
    if name == "fashion_mnist":
        prefix = "train" if train else "t10k"
        resources = [entry for entry in datasets.FashionMNIST.resources if entry[0].startswith(prefix)]
        fashion: Any = type("FashionMNIST", (datasets.FashionMNIST,), {"resources": resources})
        files: dict[str, str | None] = {file.removesuffix(".gz"): None for file, _ in resources}
        return partial(fashion, root, train=train), root / "FashionMNIST" / "raw", files
    published = {"stl10": datasets.STL10, "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    lists = {"train_list": published.train_list[: 2 if name == "stl10" else None], "test_list": published.test_list}
    lists["test_list" if train else "train_list"] = []
    restricted: Any = type(published.__name__, (published,), lists)
    files = dict([*lists["train_list"], *lists["test_list"]])
    if name == "stl10":
        return partial(restricted, root, split=part), root / restricted.base_folder, files
    files[restricted.meta["filename"]] = restricted.meta["md5"]
    return partial(restricted, root, train=train), root / restricted.base_folder, files


def _arrays(name: str, opened: Any) -> tuple[Pixels, Indices]:
    """Images ``[N, C, S, S]`` uint8 and labels ``[N]`` int64 out of an open torchvision data set, in bulk."""
    if name == "fashion_mnist":
        return opened.data.numpy()[:, None], opened.targets.numpy().astype(np.int64)
    if name in ("svhn", "stl10"):
        return opened.data, np.asarray(opened.labels, dtype=np.int64)
    return opened.data.transpose(0, 3, 1, 2), np.asarray(opened.targets, dtype=np.int64)


def _why_unreadable(folder: Path, files: Mapping[str, str | None], error: Exception, *, download: bool) -> str:
    """A text that names the damaged files; the messages of torchvision do not."""
    from torchvision.datasets.utils import check_integrity

    reason = " ".join(str(error).split()) or type(error).__name__
    there = [file for file in files if (folder / file).is_file()]
    if damaged := [str(folder / file) for file in there if not check_integrity(folder / file, files[file])]:
        return (
            f"has files that differ from the published ones (checksum): delete {', '.join(damaged)} and let --download "
            "fetch them"
        )
    if download and len(there) < len(files):
        return f"could not be downloaded to {folder}: {reason}"
    return f"in {folder} cannot be read, fetch it anew: {reason}"
