"""Channels and sizes of image arrays ``[N, C, H, W]`` uint8."""

import numpy as np
import numpy.typing as npt

from study.arrays import batches

Pixels = npt.NDArray[np.uint8]

_CHUNK = 2048  # images converted at once: bounds the memory of float intermediates
_CHUNK_PIXELS = 2**22  # counted at once: ``bincount`` makes eight bytes of each


def convert_channels(images: Pixels, channels: int) -> Pixels:
    """``[N, 1 or 3, H, W]`` -> ``[N, channels, H, W]``: grey is repeated, colour becomes ITU-R 601 luma.

    The luma is computed with the integers that Pillow uses, so that arrays and image files become the same grey.
    """
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=1)
    grey = np.empty((len(images), 1, *images.shape[2:]), np.uint8)
    for chunk in batches(len(images), _CHUNK):
        red, green, blue = np.moveaxis(images[chunk].astype(np.uint32), 1, 0)
        grey[chunk, 0] = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return grey


def resize(images: Pixels, size: int) -> Pixels:
    """Square images ``[N, C, S, S]`` -> ``[N, C, size, size]``, bilinear with antialiasing."""
    if images.shape[2:] == (size, size):
        return images
    import torch  # takes seconds: a process that reads the cache of images does without
    from torch.nn import functional

    resized = np.empty((*images.shape[:2], size, size), np.uint8)
    for chunk in batches(len(images), _CHUNK):
        levels = torch.from_numpy(images[chunk].astype(np.float32))
        levels = functional.interpolate(levels, size=(size, size), mode="bilinear", antialias=True)
        resized[chunk] = levels.round_().clamp_(0, 255).numpy()
    return resized


def mean_and_std(images: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixels / 255 for each channel of ``[N, C, H, W]``.

    Both come from a histogram of the 256 values: they are exact and do not depend on the order of the images. A channel
    without any contrast gets the deviation of one grey level, because images are divided by the deviation.
    """
    count, channels, height, width = images.shape
    histograms = np.zeros((channels, 256), np.int64)
    # One pass over the images, which may be a file that does not fit into memory.
    for chunk in batches(count, max(1, _CHUNK_PIXELS // (height * width))):
        for channel in range(channels):
            histograms[channel] += np.bincount(images[chunk, channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    means, deviations = [], []
    for histogram in histograms:
        share = histogram / histogram.sum()
        mean = float(share @ values)
        means.append(mean)
        deviations.append(max(float(np.sqrt(share @ (values - mean) ** 2)), 1 / 255))
    return tuple(means), tuple(deviations)
