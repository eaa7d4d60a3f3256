"""What a user hands to an exported model: the same picture in every form is the same input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from study import UserError
from study.data.image_files import UnreadableImagesError
from study.deploy.folder import Preprocessing
from study.deploy.images import pixels_of
from study.deploy.run import pixels_of as in_the_runner

GREY = Preprocessing(image_size=16, channels=1, mean=(0.5,), std=(0.5,), enlarge="bilinear", pad_from=None)
COLOUR = replace(GREY, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)


def picture(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("how", [GREY, COLOUR], ids=["grey", "colour"])
def test_a_picture_in_every_form_is_the_same(how: Preprocessing, tmp_path: Path) -> None:
    array = picture(20, 30, 3)
    image = Image.fromarray(array)
    image.save(tmp_path / "one.png")
    expected = pixels_of(tmp_path / "one.png", how)
    assert expected.shape == (1, how.channels, 16, 16)
    forms = [str(tmp_path / "one.png"), image, array, array.transpose(2, 0, 1), torch.from_numpy(array), array[None]]
    for form in forms:
        torch.testing.assert_close(pixels_of(form, how), expected)
    several = pixels_of([*forms[:3], np.stack([array, array])], how)
    torch.testing.assert_close(several, expected.expand(5, -1, -1, -1))


def test_arrays_without_an_axis_of_channels_are_grey() -> None:
    batch = picture(5, 16, 16)
    torch.testing.assert_close(pixels_of(batch, GREY)[:, 0], torch.from_numpy(batch))
    torch.testing.assert_close(pixels_of(batch[2], GREY)[0, 0], torch.from_numpy(batch[2]))
    torch.testing.assert_close(pixels_of(batch[:, None], GREY), pixels_of(batch[..., None], GREY))
    assert pixels_of(batch, COLOUR).shape == (5, 3, 16, 16)


def test_floats_are_pixels_of_255() -> None:
    batch = picture(4, 1, 16, 16)
    floats = torch.from_numpy(batch) / 255
    torch.testing.assert_close(pixels_of(floats, GREY), torch.from_numpy(batch).float())
    torch.testing.assert_close(pixels_of(floats[1], GREY), torch.from_numpy(batch[1:2]).float())


@pytest.mark.parametrize(
    "how",
    [GREY, COLOUR, replace(GREY, enlarge="repeat"), replace(GREY, pad_from=12), replace(GREY, pad_from=5)],
)
@pytest.mark.parametrize("size", [(8, 8), (12, 12), (16, 16), (5, 40), (33, 21)])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "I;16"])
def test_the_runner_reads_files_as_the_study_does(
    how: Preprocessing, size: tuple[int, int], mode: str, tmp_path: Path
) -> None:
    if mode == "I;16":
        image = Image.fromarray(picture(*size).astype(np.uint16) * 200)
    else:
        image = Image.fromarray(picture(*size, 3)).convert(mode)
    image.save(tmp_path / "one.png")
    raw = {name: getattr(how, name) for name in ("image_size", "channels", "enlarge", "pad_from")}
    expected = pixels_of(tmp_path / "one.png", how)[0].numpy()
    np.testing.assert_array_equal(in_the_runner(tmp_path / "one.png", raw), expected)


def test_digits_are_enlarged_and_small_pictures_padded() -> None:
    small = picture(8, 8)
    repeated = pixels_of(small, replace(GREY, enlarge="repeat"))
    np.testing.assert_array_equal(repeated[0, 0].numpy(), small.repeat(2, 0).repeat(2, 1))
    padded = pixels_of(small, replace(GREY, pad_from=8))[0, 0].numpy()
    np.testing.assert_array_equal(padded[4:12, 4:12], small)
    assert padded.sum() == small.sum()


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (7, "not int"),
        (np.zeros((4, 4)), "float64"),
        (picture(4, 4)[0], "no image"),
        (picture(2, 5, 5, 7), "neither 1 nor 3 channels"),
        (picture(0, 4), "no image"),
        (torch.zeros(1, 1, 8, 8), "1, 16, 16"),
        (torch.full((1, 1, 16, 16), 2.0), "from 0 to 1"),
        ([picture(4, 4), None], "NoneType"),
        (Image.new("F", (5, 5)), "mode F .32-bit pixels"),
        (Image.new("L", (0, 5)), "0 x 5 pixels"),
    ],
)
def test_something_else_is_refused(images: object, told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        pixels_of(images, GREY)
    assert "\n" not in str(error.value)


def test_files_that_are_no_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    for name in ("text.png", "missing.png"):
        with pytest.raises(UnreadableImagesError, match=name):
            pixels_of(tmp_path / name, GREY)


def test_an_iterator_gives_many_images(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(picture(20, 20)).save(tmp_path / name)
    files = sorted(tmp_path.glob("*.png"))
    torch.testing.assert_close(pixels_of(iter(files), GREY), pixels_of(files, GREY))


def test_a_damaged_file_that_pillow_has_open_is_refused(tmp_path: Path) -> None:
    Image.fromarray(picture(20, 20)).save(tmp_path / "one.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "one.png").read_bytes()[:100])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(UserError, match="cannot read a Pillow image"):
        pixels_of(image, GREY)


def test_no_images_are_an_empty_batch() -> None:
    assert pixels_of([], GREY).shape == (0, 1, 16, 16)
    assert pixels_of(picture(0, 16, 16, 1), GREY).shape == (0, 1, 16, 16)
