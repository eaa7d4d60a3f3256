"""Images that a user hands to an exported model: files, Pillow images, arrays and tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from study.data.image_files import central_square, read_square, strict_decoder
from study.data.pixels import Pixels
from study.deploy.folder import Preprocessing
from study.errors import UserError

Images: TypeAlias = Any
"""A path, a Pillow image, an array, a tensor, or a sequence or an iterator of these.

An array or tensor of uint8 is one image ``[H, W]``, ``[H, W, C]`` or ``[C, H, W]``, or a batch of images ``[N, H, W]``,
``[N, H, W, C]`` or ``[N, C, H, W]``; C is 1 or 3, and three axes of which none is C are a batch. A tensor of floats
holds pixels / 255, ``[C, S, S]`` or ``[N, C, S, S]``, in the size that the network takes.
"""


def pixels_of(images: Images, how: Preprocessing) -> Tensor:
    """``[N, C, S, S]``, the pixels that the network takes: uint8, or float32 from 0 to 255 where floats were given.

    Raises:
        UnreadableImagesError: files cannot be read.
        UserError: something else is no image.
    """
    if isinstance(images, Iterator):
        images = list(images)
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        if not images:
            return torch.zeros((0, how.channels, how.image_size, how.image_size), dtype=torch.uint8)
        with strict_decoder():
            found = [_one_or_more(one, how) for one in images]
        if len({one.dtype for one in found}) > 1:
            found = [one.float() for one in found]
        return torch.cat(found)
    with strict_decoder():
        return _one_or_more(images, how)


def square_of(image: Image.Image, how: Preprocessing) -> Pixels:
    """Pixels ``[C, S, S]`` of an image of any size."""

    def square(side: int) -> Pixels:
        return central_square(image, side, how.channels, white_level=how.white_level)

    side, size = min(image.size), how.image_size
    if side == how.pad_from:
        before = (size - side) // 2
        after = size - side - before
        return np.pad(square(side), ((0, 0), (before, after), (before, after)))
    if how.enlarge == "repeat" and size % side == 0:
        scale = size // side
        return square(side).repeat(scale, axis=1).repeat(scale, axis=2)
    return square(size)


def _one_or_more(one: Any, how: Preprocessing) -> Tensor:
    if isinstance(one, str | Path):
        return torch.from_numpy(read_square(Path(one), lambda image: square_of(image, how)).copy())[None]
    if isinstance(one, Image.Image):
        return _of_pillow(one, how)
    if isinstance(one, Tensor) and one.is_floating_point():
        return _of_floats(one, how)
    if isinstance(one, np.ndarray | Tensor):
        return _of_array(one.numpy(force=True) if isinstance(one, Tensor) else one, how)
    raise UserError(f"an image is a path, a Pillow image, an array or a tensor, not {type(one).__name__}")


def _of_pillow(image: Image.Image, how: Preprocessing) -> Tensor:
    if 0 in image.size:
        raise UserError(f"a Pillow image of {image.width} x {image.height} pixels is no image")
    try:
        return torch.from_numpy(square_of(image, how).copy())[None]
    except Exception as error:  # the pixels of an open file are decoded here, and the errors of decoders are many
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot read a Pillow image of mode {image.mode} ({reason})") from error


def _of_floats(tensor: Tensor, how: Preprocessing) -> Tensor:
    batch = tensor[None] if tensor.dim() == 3 else tensor
    expected = (how.channels, how.image_size, how.image_size)
    if batch.dim() != 4 or tuple(batch.shape[1:]) != expected:
        raise UserError(f"a tensor of floats has shape {list(tensor.shape)}, but must be [N, {str(expected)[1:-1]}]")
    if len(batch) and not (float(batch.min()) >= 0 and float(batch.max()) <= 1):
        raise UserError("a tensor of floats holds pixels / 255, from 0 to 1: give pixels as uint8, or divide them")
    return batch.float() * 255


def _of_array(array: np.ndarray[Any, Any], how: Preprocessing) -> Tensor:
    sides = array.shape if array.ndim == 2 else array.shape[1:]  # a batch may be empty, an image may not
    if array.dtype != np.uint8 or array.ndim not in (2, 3, 4) or 0 in sides:
        raise UserError(f"an array of {array.dtype} of shape {list(array.shape)} is no image: uint8 of 2 to 4 axes is")
    if array.ndim == 2:
        array = array[None, :, :, None]
    elif array.ndim == 3:
        last = array.shape[2] in (1, 3)
        array = array[None] if last or array.shape[0] in (1, 3) else array[:, :, :, None]
    if array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    elif array.shape[1] not in (1, 3):
        raise UserError(f"an array of shape {list(array.shape)} has neither 1 nor 3 channels")
    if array.shape[1:] == (how.channels, how.image_size, how.image_size):
        return torch.from_numpy(np.ascontiguousarray(array))
    squares = [square_of(Image.fromarray(_for_pillow(one)), how) for one in array]
    size = (0, how.channels, how.image_size, how.image_size)
    return torch.from_numpy(np.stack(squares) if squares else np.zeros(size, np.uint8))


def _for_pillow(image: Pixels) -> Pixels:
    return np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
