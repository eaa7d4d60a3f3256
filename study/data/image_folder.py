"""A user's own images: one folder a class.

There are two layouts: ``train/<class>/*`` and ``test/<class>/*``, or a flat ``<class>/*``. In a flat folder, the hash
of an image's path decides whether the image belongs to the test part (:func:`_flat_parts`). The test part is therefore
the same for every seed and on every machine, and no image changes its part when another one is added or removed.
Names are sorted. Hidden files and files whose ending is not that of an image are passed over.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from study.data.image_files import UnreadableImagesError, image_endings, read_with_digest, strict_decoder
from study.data.image_modes import WHITE_LEVEL
from study.data.settings import DataSettings, ReadPart
from study.data.splits import TEST_SHARE, Indices
from study.errors import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class FolderPart:
    """The training or the test part. No file has been opened yet."""

    root: Path
    files: tuple[str, ...]
    """Paths below ``root``."""
    labels: Indices
    """``[N]``."""
    class_names: tuple[str, ...]
    test_sizes: Indices | None = None
    """``[C]``: images of each class of a flat folder that belong to the test part."""

    def read(self, indices: Indices, settings: DataSettings) -> ReadPart:
        """Pixels of some of the images, in the size, channels and white level of resolved settings.

        The source is the sha256 over each file's path and bytes, and over the rules of :mod:`study.data.image_modes`
        that changed its pixels.

        Raises:
            UnreadableImagesError: it names the files that are damaged or no images.
        """
        assert settings.image_size is not None and settings.channels is not None
        image_size, channels, white_level = settings.image_size, settings.channels, settings.white_level or WHITE_LEVEL
        images = np.empty((len(indices), channels, image_size, image_size), np.uint8)
        deepest = np.zeros(len(indices), np.uint16)
        problems: list[str] = []

        def read_into(row: int) -> bytes:
            path = self.root / self.files[indices[row]]
            try:
                read = read_with_digest(path, image_size=image_size, channels=channels, white_level=white_level)
            except UnreadableImagesError as error:
                problems.extend(error.problems)
                return b""
            images[row], deepest[row] = read.pixels, read.deepest
            return read.digest

        source = hashlib.sha256()
        with strict_decoder(settings.max_pixels), ThreadPoolExecutor(max_workers=min(32, os.cpu_count() or 1)) as pool:
            for index, digest in zip(indices, pool.map(read_into, range(len(indices))), strict=True):
                source.update(self.files[index].encode(errors="surrogateescape") + b"\0" + digest)
        if problems:
            raise UnreadableImagesError(sorted(problems))
        return ReadPart(images, source.hexdigest(), int(deepest.max(initial=0)))


def folder_part(part: str, root: Path) -> FolderPart:
    """List the part ``train`` or ``test`` of an image folder.

    Raises:
        UserError: the folder or its classes are not as they must be.
    """
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "is not there"
        raise UserError(f"image folder {root} {problem}: give an existing folder, absolute or below the data root")
    try:
        files, test_sizes = _list(part, root.resolve())
    except OSError as error:
        raise UserError(f"cannot list image folder {root}: {error}") from error
    return FolderPart(
        root=root.resolve(),
        files=tuple(file for of_class in files.values() for file in of_class),
        labels=np.repeat(np.arange(len(files)), [len(of_class) for of_class in files.values()]).astype(np.int64),
        class_names=tuple(files),
        test_sizes=test_sizes,
    )


def _list(part: str, root: Path) -> tuple[dict[str, list[str]], Indices | None]:
    """The files of each class in a part, and :attr:`FolderPart.test_sizes`."""
    split_layout = any(_subfolders(root / name, root) for name in ("train", "test") if (root / name).is_dir())
    if not split_layout:
        parts = {name: _flat_parts(name, _image_files(root / name, root)) for name in _class_names(root, root)}
        test_sizes = np.array([len(of_class["test"]) for of_class in parts.values()], dtype=np.int64)
        return {name: of_class[part] for name, of_class in parts.items()}, test_sizes
    for name in ("train", "test"):
        if not (root / name).is_dir():
            raise UserError(f"image folder {root} lacks {name}/: it needs both train/<class>/ and test/<class>/")
        _refuse_outside(root / name, root)
    class_names = _class_names(root / "train", root)
    difference = set(class_names) ^ set(_class_names(root / "test", root))
    if difference:
        described = ", ".join(f"{n} only in {'train/' if n in class_names else 'test/'}" for n in sorted(difference))
        raise UserError(f"image folder {root}: train/ and test/ must hold the same classes, but: {described}")
    return {name: _image_files(root / part / name, root) for name in class_names}, None


def _class_names(folder: Path, root: Path) -> tuple[str, ...]:
    names = _subfolders(folder, root)
    if not names:
        raise UserError(f"image folder {folder} has no class folders: it needs one folder of images for each class")
    if len(names) == 1:
        raise UserError(f"image folder {folder} has one class only ({names[0]}): a classifier needs at least two")
    return tuple(names)


def _subfolders(folder: Path, root: Path) -> list[str]:
    """Sorted names of the visible folders in ``folder``."""
    names = []
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_symlink() and not path.exists():  # it may stand for a class
            raise UserError(f"{path} is a link that leads nowhere: mend or remove it")
        if path.is_dir():
            _refuse_outside(path, root)
            names.append(path.name)
    return sorted(names)


def _image_files(folder: Path, root: Path) -> list[str]:
    """Sorted paths, relative to ``root``, of the images that lie directly in a class folder; at least one."""
    endings = image_endings()
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or Path(entry.name).suffix.lower() not in endings or entry.is_dir():
                continue
            if entry.is_symlink():
                _refuse_outside(Path(entry.path), root)
            if not entry.is_file():  # a pipe, which could be read for ever, or a broken link
                raise UserError(f"cannot read image {entry.path}: it is no file; remove it")
            files.append(Path(entry.path).relative_to(root).as_posix())
    if not files:
        raise UserError(
            f"class folder {folder} holds no image: images must lie directly in the folder; add some or "
            "remove the folder"
        )
    return sorted(files)


def _refuse_outside(path: Path, root: Path) -> None:
    """Refuse a link out of the image folder: a copy of the folder must hold all images."""
    if not path.resolve().is_relative_to(root):
        raise UserError(f"{path} is a link that leads out of the image folder {root}: put the images themselves there")


def _flat_parts(class_name: str, files: list[str]) -> dict[str, list[str]]:
    """The files of one class of a flat folder: part -> sorted files.

    A file belongs to the test part if its hash, as a number from 0 to 1, is below 1/5. Each part has an image of each
    class: the test part at least the one with the lowest hash, the training part the one with the highest.
    """
    if len(files) < 2:
        raise UserError(f"class {class_name!r} has 1 image, too few for a training and a test part: add some")
    by_hash = sorted(files, key=_hash)
    below = sum(_hash(file) < TEST_SHARE for file in files)
    count = min(max(1, below), len(files) - 1)
    return {"test": sorted(by_hash[:count]), "train": sorted(by_hash[count:])}


def _hash(file: str) -> float:
    """The sha256 of a path below the image folder, as a number from 0 to 1."""
    return int.from_bytes(hashlib.sha256(file.encode(errors="surrogateescape")).digest()[:8]) / 2**64
