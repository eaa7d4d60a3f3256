"""One image file as training sees it."""

from pathlib import Path

from study.data.image_files import read_with_digest, strict_decoder
from study.data.pixels import Pixels


def read_image(path: Path, *, image_size: int, channels: int) -> Pixels:
    """``[channels, image_size, image_size]`` uint8."""
    with strict_decoder():
        return read_with_digest(path, image_size=image_size, channels=channels)[0]
