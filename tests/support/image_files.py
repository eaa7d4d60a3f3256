"""Image files: one as training sees it, and digits as files."""

from pathlib import Path

from PIL import Image

from study.data.array_sources import read_digits
from study.data.image_files import read_with_digest, strict_decoder
from study.data.pixels import Pixels


def read_image(path: Path, *, image_size: int, channels: int, **rules: int) -> Pixels:
    """``[channels, image_size, image_size]`` uint8."""
    with strict_decoder():
        return read_with_digest(path, image_size=image_size, channels=channels, **rules).pixels


def write_digits(folder: Path, count: int) -> list[int]:
    """Images of digits as ``<class>/<number>.png``, 8 pixels wide; returns their classes in the order of the files."""
    images, labels = read_digits()
    for number, (image, label) in enumerate(zip(images[:count, 0], labels[:count], strict=True)):
        path = folder / str(label) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return sorted(map(int, labels[:count]))
