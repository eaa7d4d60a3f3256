"""Read one image file as training sees it, and say why a file cannot be read."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from results.storage.object_store import RemotePath
from results.storage.paths import Location
from study.data.image_modes import WHITE_LEVEL, plain_image
from study.data.pixels import Pixels
from study.errors import UserError


class UnreadableImagesError(UserError):
    """Images that cannot be read.

    Args:
        problems: a text for each image: its path, and the reason in parentheses.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = problems
        lengths = itertools.accumulate(len(problem) + 2 for problem in problems)
        shown = max(1, sum(length <= _LONGEST_LIST for length in lengths))
        more = f" and {len(problems) - shown} more" if shown < len(problems) else ""
        super().__init__(
            f"cannot read image {problems[0]}: mend or remove the file"
            if len(problems) == 1
            else f"cannot read {len(problems)} images: mend or remove {', '.join(problems[:shown])}{more}"
        )


_LONGEST_LIST = 700
"""Characters of a list of images in an error message."""


@dataclass(frozen=True, eq=False)
class ReadImage:
    """An image file as training sees it."""

    pixels: Pixels
    """``[channels, image_size, image_size]``: RGB or ITU-R 601 luma."""
    digest: bytes
    """sha256 of the file; behind it the rules of :mod:`study.data.image_modes` that changed pixels."""
    deepest: int
    """The largest value of a grey of 16 bits; 0 for other images."""


def read_with_digest(path: Location, *, image_size: int, channels: int, white_level: int = WHITE_LEVEL) -> ReadImage:
    """Read an image file or an object. The central square is cut out and resized bilinearly with antialiasing.

    Call inside :func:`strict_decoder`.

    Raises:
        UnreadableImagesError: the file cannot be read or is no image.
        UserError: the object store does not answer or refuses access: the other images cannot be read, either.
    """
    name = path.plain if isinstance(path, RemotePath) else path
    try:
        content = path.read_bytes()
    except OSError as error:
        if isinstance(path, RemotePath) and not isinstance(error, FileNotFoundError):
            raise UserError(f"cannot read image {name}: {error.strerror}: start again when the store answers") from None
        raise UnreadableImagesError([f"{name} ({_reason(error)})"]) from error
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            plain = plain_image(image, channels, white_level)
        pixels = _square(plain.image, image_size, channels)
    except Exception as error:  # the bytes are arbitrary, and so are the errors of decoders
        raise UnreadableImagesError([f"{name} ({_reason(error)})"]) from error
    digest = hashlib.sha256(content).digest() + "|".join(plain.rules).encode()
    return ReadImage(pixels, digest, plain.deepest)


def read_square(source: Path | BinaryIO, prepare: Callable[[Image.Image], Pixels], *, name: str = "") -> Pixels:
    """What ``prepare`` makes of the image in a file; call inside :func:`strict_decoder`.

    ``name`` stands in messages for an open file, which has no path.

    Raises:
        UnreadableImagesError: the file cannot be read or is no image.
    """
    try:
        with Image.open(source, formats=_formats()) as image:
            return prepare(image)
    except Exception as error:  # as above
        raise UnreadableImagesError([f"{name or source} ({_reason(error)})"]) from error


def central_square(image: Image.Image, size: int, channels: int, *, white_level: int = WHITE_LEVEL) -> Pixels:
    """Pixels ``[channels, size, size]`` of the central square, resized bilinearly with antialiasing.

    Raises:
        ValueError: the image has 32 bits a pixel, which have no defined white.
    """
    return _square(plain_image(image, channels, white_level).image, size, channels)


def _square(image: Image.Image, size: int, channels: int) -> Pixels:
    """The square is cut out first: resized whole, a very long image would be huge."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return pixels.reshape(size, size, channels).transpose(2, 0, 1)


@contextmanager
def strict_decoder(max_pixels: int | None = None) -> Iterator[None]:
    """Make Pillow's warning of a decompression bomb an error, and ignore its other warnings.

    ``max_pixels``: above how many pixels an image may be such a bomb; None: Pillow's number. The number and the filters
    of warnings are global to the process. Enter this context once, around a thread pool, not in its threads.
    """
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings(action="ignore"):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = before if max_pixels is None else max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _reason(error: Exception) -> str:
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        found = re.search(r"\d+", str(error))  # Pillow tells the pixels first
        pixels = f"{int(found[0]):,} pixels" if found else "too many pixels"
        return f"{pixels}, more than max_pixels allows: shrink it; it may also be a decompression bomb"
    if isinstance(error, UnidentifiedImageError):
        return "not an image format that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


@cache
def _formats() -> tuple[str, ...]:
    """The formats that Pillow can decode, without EPS: Pillow hands EPS files to Ghostscript, which runs them.

    Pillow tries the formats in this order. With the common ones first, small images take little more than half the
    time.
    """
    Image.init()
    common = ("JPEG", "PNG")
    others = [name for name, (factory, _) in Image.OPEN.items() if not _only_identified(name, factory)]
    return (*common, *(name for name in others if name not in (*common, "EPS")))


def _only_identified(name: str, factory: object) -> bool:
    """Whether Pillow recognises a format but cannot decode it: MPEG, and stubs (HDF5, GRIB, ..) without a handler."""
    stub = isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
    return name == "MPEG" or (stub and getattr(sys.modules[factory.__module__], "_handler", None) is None)


def image_endings() -> frozenset[str]:
    """The endings of files, as ``.png``, that Pillow can decode."""
    formats = set(_formats())
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in formats)
