"""Image files: one as training sees it, and digits as files."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from study.data.image_files import read_with_digest, strict_decoder
from study.data.pixels import Pixels


def read_image(path: Path, *, image_size: int, channels: int, **rules: int) -> Pixels:
    """``[channels, image_size, image_size]`` uint8."""
    with strict_decoder():
        return read_with_digest(path, image_size=image_size, channels=channels, **rules).pixels


def write_digits(folder: Path, count: int) -> list[int]:
    """Images of digits as ``<class>/<number>.png``, 8 pixels wide; returns their classes in the order of the files."""
    digits = load_digits()
    for number in range(count):
        path = folder / str(digits.target[number]) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 255 / 16).round().astype(np.uint8)).save(path)
    return sorted(map(int, digits.target[:count]))
