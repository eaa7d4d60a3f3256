"""The user's own images."""

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.refusals import one_line

from study.data.image_folder import read_image
from study.data.loading import load_dataset, load_test_set
from study.data.settings import DataSettings
from study.errors import UserError

NOWHERE = Path("nowhere")  # digits need no files


def fill(folder: Path, count: int, *, ending: str = "png", seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([seed, *folder.name.encode()])
    for number in range(count):
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{number:03}.{ending}")


@pytest.fixture
def split_folder(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        fill(tmp_path / "pets" / "train" / name, 10)
        fill(tmp_path / "pets" / "test" / name, 3, ending="jpg")
    return tmp_path / "pets"


@pytest.fixture
def flat_folder(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        fill(tmp_path / "pets" / name, 10)
    return tmp_path / "pets"


def folder_settings(folder: Path | str, **changes: Any) -> DataSettings:
    return DataSettings(**{"name": "image_folder", "folder": str(folder), "image_size": 16, **changes})


def test_image_folder_with_a_test_part(split_folder: Path) -> None:
    (split_folder / "train" / "cat" / ".hidden.png").write_bytes(b"")
    (split_folder / "train" / "cat" / "notes.txt").write_text("no image")
    (split_folder / "train" / ".cache").mkdir()
    data = load_dataset(folder_settings("pets"), split_folder.parent)
    assert data.info.class_names == ("cat", "dog")
    assert [len(split) for split in (data.train, data.calibration, data.validation)] == [16, 2, 2]
    assert data.train.images.shape == (16, 3, 16, 16)
    test = load_test_set(folder_settings(split_folder), NOWHERE)
    assert test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    grey = load_test_set(folder_settings(split_folder, channels=1), NOWHERE)
    assert grey.images.shape == (6, 1, 16, 16)


def test_image_folder_pixels_equal_a_plain_decode(split_folder: Path) -> None:
    path = split_folder / "test" / "cat" / "000.jpg"
    test = load_test_set(folder_settings(split_folder, image_size=20), NOWHERE)
    plain = np.asarray(Image.open(path).convert("RGB").crop((5, 0, 25, 20)))  # 30 x 20: the central square
    assert np.array_equal(test.images[0], plain.transpose(2, 0, 1))
    assert np.array_equal(read_image(path, image_size=20, channels=3), test.images[0])


def test_flat_folder_has_a_test_part_that_no_seed_moves(flat_folder: Path) -> None:
    digests = set()
    for seed in (0, 1):
        asked = folder_settings(flat_folder, seed=seed)
        data, test = load_dataset(asked, NOWHERE), load_test_set(asked, NOWHERE)
        assert np.bincount(test.labels).tolist() == [2, 2]
        assert len(data.train) + len(data.calibration) + len(data.validation) == 16
        trained = {image.tobytes() for image in data.train.images}
        assert not trained & {image.tobytes() for image in test.images}
        digests.add(test.digest)
    assert len(digests) == 1


def test_flat_folder_opens_no_test_image(flat_folder: Path) -> None:
    test = load_test_set(folder_settings(flat_folder, image_size=20), NOWHERE)
    hidden = {image.tobytes() for image in test.images}
    for path in flat_folder.rglob("*.png"):
        if read_image(path, image_size=20, channels=3).tobytes() in hidden:
            path.write_bytes(b"damaged")
    load_dataset(folder_settings(flat_folder), NOWHERE)


def test_folder_digest_moves_with_content_not_with_place(split_folder: Path, tmp_path: Path) -> None:
    digest = load_dataset(folder_settings(split_folder), NOWHERE).info.digest
    moved = shutil.copytree(split_folder, tmp_path / "elsewhere")
    assert load_dataset(folder_settings(moved), NOWHERE).info.digest == digest
    (moved / "test" / "cat" / "000.jpg").write_bytes(b"the test part has no part in it")
    assert load_dataset(folder_settings(moved), NOWHERE).info.digest == digest
    fill(moved / "train" / "cat", 1, seed=1)
    assert load_dataset(folder_settings(moved), NOWHERE).info.digest != digest


def test_limit_decodes_only_what_it_keeps(split_folder: Path) -> None:
    data = load_dataset(folder_settings(split_folder, limit=8), NOWHERE)
    assert [len(split) for split in (data.train, data.calibration, data.validation)] == [6, 1, 1]


def test_image_modes_become_rgb(tmp_path: Path) -> None:
    """Palette with transparency, 16 bit grey and CMYK: no warning, no clipped greys; 32 bit is refused."""
    deep = np.full((8, 8), 0x8040, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert (read_image(tmp_path / "deep.png", image_size=8, channels=1) == 0x80).all()
    palette = Image.new("P", (9, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "palette.png", transparency=bytes([0, 128]))
    Image.new("CMYK", (8, 9)).save(tmp_path / "cmyk.jpg")
    Image.new("F", (8, 8)).save(tmp_path / "float.tiff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "palette.png", image_size=8, channels=3)[:, 0, 0].tolist() == [10, 20, 30]
        assert (read_image(tmp_path / "cmyk.jpg", image_size=8, channels=3) == 255).all()
        with pytest.raises(UserError, match="32-bit"):
            read_image(tmp_path / "float.tiff", image_size=8, channels=3)


def refusal(folder: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as error:
        load_dataset(folder_settings(folder, **changes), NOWHERE)
    return one_line(error)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert f"image folder {tmp_path / 'none'} is not there" in refusal(tmp_path / "none")


def test_a_folder_without_classes(tmp_path: Path) -> None:
    assert "has no class folders" in refusal(tmp_path)


def test_a_single_class(flat_folder: Path) -> None:
    shutil.rmtree(flat_folder / "cat")
    assert "one class only (dog)" in refusal(flat_folder)


def test_a_class_without_images(flat_folder: Path) -> None:
    (flat_folder / "eel").mkdir()
    (flat_folder / "eel" / "notes.txt").write_text("none caught")
    assert f"class folder {flat_folder / 'eel'} holds no image" in refusal(flat_folder)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_class_with_too_few_images(flat_folder: Path, count: int) -> None:
    fill(flat_folder / "eel", count)
    assert "'eel' has" in refusal(flat_folder, calibration=0.25, validation=0.25)


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_image_that_cannot_be_read_is_named(flat_folder: Path, content: bytes | None) -> None:
    for path in (flat_folder / "cat").iterdir():
        path.write_bytes(path.read_bytes()[:400] if content is None else content)
    assert f"cannot read image {flat_folder / 'cat'}" in refusal(flat_folder)


def test_a_decompression_bomb_is_named(flat_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in (500, 100):  # 600 pixels: Pillow warns above its limit and raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert "possible decompression bomb" in refusal(flat_folder)


def test_classes_of_train_and_test_must_agree(split_folder: Path) -> None:
    fill(split_folder / "test" / "eel", 3)
    assert "eel only in test/" in refusal(split_folder)
    shutil.rmtree(split_folder / "test" / "eel")
    fill(split_folder / "train" / "fox", 10)
    assert "fox only in train/" in refusal(split_folder)
    shutil.rmtree(split_folder / "test")
    assert "lacks test/" in refusal(split_folder)


@pytest.mark.parametrize("place_of_link", ["cat/link.png", "eel"])
def test_links_out_of_the_folder_are_refused(flat_folder: Path, tmp_path: Path, place_of_link: str) -> None:
    fill(tmp_path / "secret", 10)
    target = tmp_path / "secret" / ("000.png" if place_of_link.endswith("png") else "")
    (flat_folder / place_of_link).symlink_to(target)
    assert f"{flat_folder / place_of_link} is a link that leads out" in refusal(flat_folder)


def test_links_within_the_folder_are_followed_and_broken_ones_named(flat_folder: Path) -> None:
    (flat_folder / "cat" / "again.png").symlink_to(flat_folder / "cat" / "000.png")
    load_dataset(folder_settings(flat_folder), NOWHERE)
    (flat_folder / "cat" / "broken.png").symlink_to(flat_folder / "cat" / "gone.png")
    assert "broken.png" in refusal(flat_folder)


def test_a_pipe_is_no_image(flat_folder: Path) -> None:
    os.mkfifo(flat_folder / "cat" / "pipe.png")
    assert "pipe.png" in refusal(flat_folder)
