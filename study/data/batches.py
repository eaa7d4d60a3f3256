"""Turn a split in memory into batches for the network, without Python code for each image."""

import warnings

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from search_spaces.settings import CropFill
from study.data.settings import DataInfo


def place(images: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """The images as a uint8 tensor of the same shape, on a GPU if they take at most half of its free memory.

    Otherwise the tensor shares the memory of the array, which may be read-only (Ray's object store): never write to the
    tensor. :func:`to_device` moves each batch.
    """
    # Torch warns that writing to a read-only array is undefined; nothing here writes.
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        tensor = torch.from_numpy(np.ascontiguousarray(images))
    if device.type == "cuda" and images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
        return tensor
    return tensor.to(device)


def to_device(batch: Tensor, device: torch.device) -> Tensor:
    """A batch on a device. Pinned memory lets the host go on while a batch is copied to a GPU."""
    if device.type == "cuda" and batch.device.type == "cpu":
        batch = batch.pin_memory()
    return batch.to(device, non_blocking=True)


def images_at_once(images: Tensor, most: int) -> int:
    """How many of the images ``[N, C, H, W]`` are evaluated at once: at most ``most``, and fewer large ones."""
    return max(1, min(most, _VALUES_AT_ONCE // images[0].numel()))


_VALUES_AT_ONCE = 2**25
"""Pixels and channels; the maps of a network take some ten times as much memory."""


def normalize(images: Tensor, info: DataInfo) -> Tensor:
    """uint8 ``[B, C, H, W]`` -> float32 of the same shape: pixels / 255, minus ``info.mean``, over ``info.std``."""
    levels = torch.tensor((info.mean, info.std), dtype=torch.float32).mul_(255).to(images.device, non_blocking=True)
    mean, std = levels[:, :, None, None]
    return images.to(torch.float32).sub_(mean).div_(std)


def augment(
    images: Tensor,
    info: DataInfo,
    generator: torch.Generator,
    *,
    padding: int | None = None,
    fill: CropFill = "black",
    mirrored: Tensor | None = None,
) -> Tensor:
    """Random crops of padded images, and mirroring where ``info.flip``.

    uint8 ``[B, C, H, W]`` -> the same shape and device. ``generator`` is a CPU generator: a seed gives the same
    crops on every device.

    Args:
        images, info, generator: as above.
        padding: pixels on each side; None: ``info.crop_padding``.
        fill: black, or the image reflected at its border, which is not repeated.
        mirrored: ``[B]`` bool on the host; None: a random half of the images.
    """
    batch, channels, height, width = images.shape
    padding, device = info.crop_padding if padding is None else padding, images.device
    # Only the random numbers are copied to the device: a few bytes an image.
    offsets = torch.randint(0, 2 * padding + 1, (2, batch, 1), generator=generator).to(device, non_blocking=True)
    rows = offsets[0] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(batch, width)
    if info.flip:
        if mirrored is None:
            mirrored = torch.rand((batch, 1), generator=generator) < 0.5
        mirrored = mirrored.reshape(batch, 1).to(device, non_blocking=True)
        columns = torch.where(mirrored, columns.flip(1), columns)
    columns = columns + offsets[1]
    if fill == "reflected":
        rows, columns, source = _reflected(rows - padding, height), _reflected(columns - padding, width), images
    else:
        source = functional.pad(images, (padding,) * 4)
    # Crop and mirror are one gather over the flattened source.
    places = (rows[:, :, None] * source.shape[3] + columns[:, None, :]).flatten(1)
    places = places[:, None].expand(-1, channels, -1)
    return source.flatten(2).gather(2, places).reshape(images.shape)


def _reflected(places: Tensor, size: int) -> Tensor:
    """Places from 0 to ``size`` - 1 for places that may lie outside: a path that turns round at the first and last."""
    places = places.remainder(2 * (size - 1))
    return torch.minimum(places, 2 * (size - 1) - places)
