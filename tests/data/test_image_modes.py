"""Images as cameras, scanners and drawing programs store them become upright pixels of 8 bits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.image_files import read_image
from support.refusals import one_line

from study.data.image_files import strict_decoder
from study.data.loading import load_dataset
from study.data.settings import DataSettings
from study.deploy.folder import Preprocessing
from study.deploy.images import pixels_of
from study.deploy.run import pixels_of as in_the_runner
from study.errors import UserError

ORIENTATION = 0x0112
BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What a camera did to the scene for each orientation that it writes."""


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """Pillow warns of palettes with transparency, and of much else."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def scene(side: int = 16) -> Image.Image:
    """No two corners of it are alike."""
    levels = np.zeros((side, side, 3), np.uint8)
    levels[: side // 2, : side // 2], levels[side // 2 :, : side // 2] = (250, 10, 10), (10, 250, 10)
    levels[: side // 2, side // 2 :], levels[side // 2 :, side // 2 :] = (10, 10, 250), (120, 120, 120)
    return Image.fromarray(levels)


def stored(path: Path, orientation: int) -> Path:
    """The scene as a camera that was held so stores it."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    scene().transpose(BACK[orientation]).save(path, exif=exif, quality=95)
    return path


def read(path: Path, channels: int = 3, **rules: int) -> np.ndarray:
    return read_image(path, image_size=16, channels=channels, **rules)


@pytest.mark.parametrize("orientation", BACK)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tiff"])
def test_the_orientation_of_a_camera_is_applied(tmp_path: Path, orientation: int, ending: str) -> None:
    scene().save(tmp_path / f"upright.{ending}", quality=95)
    turned = stored(tmp_path / f"turned.{ending}", orientation)
    difference = read(turned).astype(int) - read(tmp_path / f"upright.{ending}").astype(int)
    assert abs(difference).mean() < 8  # lossy formats store other blocks


def test_a_wrong_orientation_is_none(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 99
    scene().save(tmp_path / "odd.png", exif=exif)
    scene().save(tmp_path / "broken.png", exif=b"Exif\0\0MM\0*\xff\xff\xff")
    for name in ("odd.png", "broken.png"):
        assert np.array_equal(read(tmp_path / name), np.asarray(scene()).transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_seen_on_white(tmp_path: Path, mode: str) -> None:
    drawing = Image.new("RGBA", (16, 16), (0, 0, 0, 0))  # black ink on clear ground: the ground is black, too
    drawing.paste((0, 0, 0, 255), (0, 0, 16, 4))
    drawing.paste((0, 0, 0, 128), (0, 4, 16, 8))
    (drawing.quantize(8) if mode == "P" else drawing.convert(mode)).save(tmp_path / "drawing.png")
    for channels in (1, 3):
        rows = read(tmp_path / "drawing.png", channels)[0, :, 0].tolist()
        assert rows[:4] == [0] * 4 and rows[8:] == [255] * 8
        assert all(abs(value - 127) < 4 for value in rows[4:8])


def test_a_colour_that_stands_for_clear_becomes_white(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (1, 2, 3)).save(tmp_path / "key.png", transparency=(1, 2, 3))
    Image.new("L", (16, 16), 7).save(tmp_path / "grey.png", transparency=7)
    deep = Image.fromarray(np.full((16, 16), 40_000, np.uint16))
    deep.save(tmp_path / "deep.png", transparency=40_000)
    for name in ("key.png", "grey.png", "deep.png"):
        assert (read(tmp_path / name) == 255).all(), name


def test_opaque_images_with_an_alpha_channel_keep_their_colours(tmp_path: Path) -> None:
    scene().convert("RGBA").save(tmp_path / "opaque.png")
    assert np.array_equal(read(tmp_path / "opaque.png"), np.asarray(scene()).transpose(2, 0, 1))


def test_greys_of_16_bits_have_a_white_level(tmp_path: Path) -> None:
    levels = np.full((16, 16), 0x8040, np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    Image.fromarray(levels).save(tmp_path / "deep.tiff")
    Image.fromarray(levels >> 4).save(tmp_path / "twelve.png")
    assert (read(tmp_path / "deep.png", 1) == 0x80).all() and (read(tmp_path / "deep.tiff", 1) == 0x80).all()
    assert (read(tmp_path / "twelve.png", 1, white_level=4095) == 0x80).all()
    assert (read(tmp_path / "deep.png", 1, white_level=4095) == 255).all(), "above white is white"
    (tmp_path / "map.pgm").write_bytes(b"P5 16 16 4095\n" + (levels >> 4).astype(">u2").tobytes())
    assert (read(tmp_path / "map.pgm", 1) == 0x80).all(), "a portable map names its maximum"


def test_palettes_cmyk_one_bit_and_animations(tmp_path: Path) -> None:
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "palette.png")
    assert read(tmp_path / "palette.png")[:, 0, 0].tolist() == [10, 20, 30]
    Image.new("CMYK", (16, 17)).save(tmp_path / "cmyk.jpg")
    assert (read(tmp_path / "cmyk.jpg") == 255).all()
    Image.new("1", (16, 16), 1).save(tmp_path / "bit.png")
    assert (read(tmp_path / "bit.png", 1) == 255).all()
    frames = [Image.new("RGB", (16, 16), (200, 0, 0)), Image.new("RGB", (16, 16), (0, 200, 0))]
    for ending in ("gif", "png", "webp", "tiff"):
        extra = {"lossless": True} if ending == "webp" else {}
        frames[0].save(tmp_path / f"moves.{ending}", save_all=True, append_images=frames[1:], **extra)
        assert read(tmp_path / f"moves.{ending}")[:, 0, 0].tolist() == [200, 0, 0], "the first frame"


def test_floats_are_refused(tmp_path: Path) -> None:
    for mode in ("F", "I"):
        Image.new(mode, (8, 8)).save(tmp_path / "float.tiff")
        with pytest.raises(UserError, match="32-bit"):
            read(tmp_path / "float.tiff")


def test_an_exported_model_and_its_runner_see_the_same(tmp_path: Path) -> None:
    how = {"image_size": 16, "channels": 3, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    how |= {"enlarge": "bilinear", "pad_from": None, "white_level": 4095}
    files = [stored(tmp_path / f"{orientation}.jpg", orientation) for orientation in BACK]
    scene().convert("RGBA").rotate(45).save(tmp_path / "clear.png")
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 20).save(tmp_path / "twelve.png")
    (tmp_path / "map.pgm").write_bytes(b"P5 16 16 4095\n" + np.arange(256, dtype=">u2").tobytes())
    for path in [*files, *(tmp_path / name for name in ("clear.png", "twelve.png", "map.pgm"))]:
        with strict_decoder():
            trained = read(path, white_level=4095)
        assert np.array_equal(pixels_of(path, Preprocessing(**how))[0].numpy(), trained), path
        assert np.array_equal(in_the_runner(path, how), trained), path
    before = Image.open(files[0])
    pixels_of(before, Preprocessing(**how))
    assert before.getexif()[ORIENTATION] == 2, "an image of the caller stays as it is"


def images_of(folder: Path, make: Any, **changes: Any) -> DataSettings:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            make(folder / name / f"{number}.png")
    return DataSettings(name="image_folder", folder=str(folder), image_size=16, channels=1, **changes)


def test_greys_of_12_bits_in_16_are_told(tmp_path: Path) -> None:
    levels = np.linspace(0, 4000, 256).astype(np.uint16).reshape(16, 16)
    asked = images_of(tmp_path, lambda path: Image.fromarray(levels).save(path))
    with pytest.raises(UserError) as error:
        load_dataset(asked, tmp_path)
    assert "reach 4000 of 65535 only" in one_line(error) and "set white_level to 4095 (12 bits)" in one_line(error)
    told = {white: load_dataset(replace(asked, white_level=white), tmp_path) for white in (4095, 65535)}
    assert told[4095].train.images.max() == 4000 * 256 // 4096 and told[65535].train.images.max() == 15
    assert told[4095].info.digest != told[65535].info.digest


def test_images_that_no_rule_changes_keep_their_digest(tmp_path: Path) -> None:
    """Studies of before the rules keep their trials: the digest is that of a program without them."""
    levels = np.asarray(scene())
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(10):
            (tmp_path / name / f"{number}.ppm").write_bytes(b"P6 16 16 255\n" + levels.tobytes())
    asked = DataSettings(name="image_folder", folder=str(tmp_path), image_size=16, channels=1)
    before = "0ddc508eb55904ca71adf40a2fcea951d804dd7b6a7455ebf06822606634504b"
    assert load_dataset(asked, tmp_path).info.digest == before
