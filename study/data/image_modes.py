"""From an image as Pillow opens it to upright pixels of 8 bits: one rule for each kind of image.

- The orientation in the metadata (EXIF) is applied: cameras store photos as the sensor saw them.
- Transparent pixels are composited onto white.
- Greys of 16 bits: ``white_level``, and what lies above it, becomes white (255). Pillow itself reduces colours of 16
  bits a channel to 8 bits, and scales greys of portable maps (PGM) by the maximum that the file names.
- Palettes and CMYK become RGB. Of several frames or pages the first one is taken.
- Greys of 32 bits and floats are refused: nothing says which value is white.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

WHITE_LEVEL = 65535
"""White in greys of 16 bits, where nothing else is said."""
_ORIENTATION = 0x0112
_UPRIGHT = 1


@dataclass(frozen=True)
class PlainImage:
    """An upright image of the mode L or RGB."""

    image: Image.Image
    rules: tuple[str, ...]
    """The rules that changed the pixels; empty for most images."""
    deepest: int
    """The largest value of a grey of 16 bits; 0 for other images."""


def plain_image(image: Image.Image, channels: int, white_level: int = WHITE_LEVEL) -> PlainImage:
    """Turn an open image upright, and into 8 bits of grey (ITU-R 601 luma) or RGB. The argument is not changed.

    Raises:
        ValueError: the image has 32 bits a pixel, which have no defined white.
        Exception: whatever a decoder raises on a damaged file.
    """
    image.load()  # the decoders of some formats apply the orientation themselves
    rules: list[str] = []
    deepest = 0
    if _orientation(image) != _UPRIGHT:
        image = ImageOps.exif_transpose(image)
        rules.append("upright")
    if image.mode.startswith("I;16"):
        image, deepest, more = _of_deep_grey(image, white_level)
        rules += more
    elif image.mode == "I" and image.format == "PPM":
        image, _, _ = _of_deep_grey(image, WHITE_LEVEL)
    elif image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no defined white: store the image with 8 or 16 bits")
    if image.has_transparency_data:
        image, composited = _on_white(image)
        rules += ["on white"] if composited else []
    elif image.mode == "P":
        image = image.convert("RGB")
    return PlainImage(image.convert("L" if channels == 1 else "RGB"), tuple(rules), deepest)


def _orientation(image: Image.Image) -> int:
    """The orientation of an image, 1 to 8; 1 where metadata are missing or cannot be read."""
    with suppress(Exception):  # the pixels of an image with damaged metadata are good
        found = image.getexif().get(_ORIENTATION, _UPRIGHT)
        if isinstance(found, int) and 1 <= found <= 8:
            return found
    return _UPRIGHT


def _of_deep_grey(image: Image.Image, white_level: int) -> tuple[Image.Image, int, list[str]]:
    """Grey of 8 bits, the largest value, and the rules beside the usual one."""
    levels = np.asarray(image).astype(np.uint32)
    grey = (np.minimum(levels, white_level) * 256 // (white_level + 1)).astype(np.uint8)
    rules = [] if white_level == WHITE_LEVEL else [f"white {white_level}"]
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[levels == clear] = 255
        rules.append("on white")
    return Image.fromarray(grey), int(levels.max(initial=0)), rules


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image on a white ground, and whether any pixel lets the ground through."""
    if image.mode in ("La", "RGBa"):  # colours that were multiplied by the opacity
        image = image.convert(image.mode[:-1] + "A")
    clear = image.convert("RGBA")
    if clear.getchannel("A").getextrema() == (255, 255):
        return clear.convert("RGB"), False
    return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB"), True
