"""A user's own images: one folder a class.

Two layouts: `train/<class>/*` and `test/<class>/*`, or a flat `<class>/*`, of which the fifth with the lowest
hashes of file names is the test part (so that it stays the same for every seed and on every machine).
Names are sorted; hidden files and files that are no images by their extension are passed over.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from study.data.pixels import Pixels
from study.data.splits import TEST_SHARE, Indices
from study.errors import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class FolderPart:
    """The training or the test part: files relative to `root`, labels `[N]`; no file has been opened yet."""

    root: Path
    files: tuple[str, ...]
    labels: Indices
    class_names: tuple[str, ...]

    def read(self, indices: Indices, *, image_size: int, channels: int) -> tuple[Pixels, str]:
        """Images `[len(indices), channels, image_size, image_size]` and the sha256 of their source.

        The source is each file's path below the folder and its bytes; every file is read once.
        """
        images = np.empty((len(indices), channels, image_size, image_size), np.uint8)

        def read_into(row: int) -> bytes:
            path = self.root / self.files[indices[row]]
            images[row], digest = _read(path, image_size=image_size, channels=channels)
            return digest

        source = hashlib.sha256()
        with _strict_decoder(), ThreadPoolExecutor(max_workers=min(32, os.cpu_count() or 1)) as pool:
            for index, digest in zip(indices, pool.map(read_into, range(len(indices))), strict=True):
                source.update(self.files[index].encode(errors="surrogateescape") + b"\0" + digest)
        return images, source.hexdigest()


def folder_part(part: str, root: Path) -> FolderPart:
    """The `part` ("train" or "test") of the image folder `root`.

    Raises:
        UserError: the folder or its classes are not as they must be; the line says what and where.
    """
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "is not there"
        raise UserError(f"image folder {root} {problem}: give an existing folder, absolute or below the data root")
    try:
        return _listed_part(part, root.resolve())
    except OSError as error:
        raise UserError(f"cannot list image folder {root}: {error}") from error


def _listed_part(part: str, root: Path) -> FolderPart:
    split_layout = any(_subfolders(root / name, root) for name in ("train", "test") if (root / name).is_dir())
    if not split_layout:
        class_names = _class_names(root, root)
        chosen = {name: _flat_part(part, name, _image_files(root / name, root)) for name in class_names}
        return _folder_part(root, chosen)
    for name in ("train", "test"):
        if not (root / name).is_dir():
            raise UserError(f"image folder {root} lacks {name}/: it needs both train/<class>/ and test/<class>/")
        _refuse_outside(root / name, root)
    class_names = _class_names(root / "train", root)
    difference = set(class_names) ^ set(_class_names(root / "test", root))
    if difference:
        described = ", ".join(f"{n} only in {'train/' if n in class_names else 'test/'}" for n in sorted(difference))
        raise UserError(f"image folder {root}: train/ and test/ must hold the same classes, but: {described}")
    return _folder_part(root, {name: _image_files(root / part / name, root) for name in class_names})


def read_image(path: Path, *, image_size: int, channels: int) -> Pixels:
    """One image file as training sees it: `[channels, image_size, image_size]` uint8.

    RGB or ITU-R 601 luma; the central square, resized bilinearly with antialiasing.

    Raises:
        UserError: the file cannot be read or is no image; the line names it.
    """
    with _strict_decoder():
        return _read(path, image_size=image_size, channels=channels)[0]


def _read(path: Path, *, image_size: int, channels: int) -> tuple[Pixels, bytes]:
    """Pixels `[C, H, W]` and sha256 of one file."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            pixels = _square(image, image_size, "L" if channels == 1 else "RGB")
    except Exception as error:  # decoders meet arbitrary bytes here and fail in arbitrary ways
        raise UserError(f"cannot read image {path} ({_reason(error)}): mend or remove the file") from error
    return pixels.reshape(image_size, image_size, channels).transpose(2, 0, 1), hashlib.sha256(content).digest()


def _square(image: Image.Image, size: int, mode: str) -> Pixels:
    """Short side resized to `size`, centre cut out; cut first, lest a very long image grow huge."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # convert() would clip at 255
    elif image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no defined white: store the image with 8 or 16 bits")
    elif image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    image = image.convert(mode)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


@contextmanager
def _strict_decoder() -> Iterator[None]:
    """Pillow's warnings: a possible decompression bomb is an error, the rest is not for the user's eyes.

    Filters are global to the process: entered once, around the thread pool, not in its threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _reason(error: Exception) -> str:
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels, a possible decompression bomb"
    if isinstance(error, UnidentifiedImageError):
        return "not an image format that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


@cache
def _formats() -> tuple[str, ...]:
    """What Pillow can open, less EPS, which it would hand to Ghostscript, which runs what it reads.

    Pillow tries them in this order: with the common ones first, small images take little more than half the time.
    """
    Image.init()
    common = ("JPEG", "PNG")
    return (*common, *(name for name in Image.OPEN if name not in (*common, "EPS")))


def _image_extensions() -> frozenset[str]:
    formats = set(_formats())
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in formats)


def _class_names(folder: Path, root: Path) -> tuple[str, ...]:
    names = _subfolders(folder, root)
    if not names:
        raise UserError(f"image folder {folder} has no class folders: it needs one folder of images for each class")
    if len(names) == 1:
        raise UserError(f"image folder {folder} has one class only ({names[0]}): a classifier needs at least two")
    return tuple(names)


def _subfolders(folder: Path, root: Path) -> list[str]:
    """Sorted names of the visible folders in `folder`."""
    names = []
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_symlink() and not path.exists():  # passed over, it might be a class that is missing
            raise UserError(f"{path} is a link that leads nowhere: mend or remove it")
        if path.is_dir():
            _refuse_outside(path, root)
            names.append(path.name)
    return sorted(names)


def _image_files(folder: Path, root: Path) -> list[str]:
    """Sorted paths, relative to `root`, of the images that lie directly in a class folder; at least one."""
    endings = _image_extensions()
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or Path(entry.name).suffix.lower() not in endings or entry.is_dir():
                continue
            if entry.is_symlink():
                _refuse_outside(Path(entry.path), root)
            if not entry.is_file():  # a pipe or a broken link: reading it could wait for ever
                raise UserError(f"cannot read image {entry.path}: it is no file; remove it")
            files.append(Path(entry.path).relative_to(root).as_posix())
    if not files:
        raise UserError(f"class folder {folder} holds no image: images must lie directly in it; add some or remove it")
    return sorted(files)


def _refuse_outside(path: Path, root: Path) -> None:
    """A folder that is copied or published must hold what it shows: no link may lead out of it."""
    if not path.resolve().is_relative_to(root):
        raise UserError(f"{path} is a link that leads out of the image folder {root}: put the images themselves there")


def _flat_part(part: str, class_name: str, files: list[str]) -> list[str]:
    """The files of one class that belong to a part of a flat folder."""
    by_hash = sorted(files, key=lambda file: hashlib.sha256(file.encode(errors="surrogateescape")).digest())
    test = set(by_hash[: max(1, int(TEST_SHARE * len(files) + 0.5))])
    if len(test) == len(files):
        raise UserError(
            f"class {class_name!r} has {len(files)} image, too few for a training and a test part: add some"
        )
    return [file for file in files if (file in test) == (part == "test")]


def _folder_part(root: Path, files: dict[str, list[str]]) -> FolderPart:
    return FolderPart(
        root=root,
        files=tuple(file for of_class in files.values() for file in of_class),
        labels=np.repeat(np.arange(len(files)), [len(of_class) for of_class in files.values()]).astype(np.int64),
        class_names=tuple(files),
    )
