"""The user's own images."""

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.image_files import read_image
from support.refusals import one_line

from study.data.file_listing import ending_of
from study.data.image_files import UnreadableImagesError
from study.data.image_folder import image_folder
from study.data.loading import load_dataset, load_test_set
from study.data.settings import Dataset, DataSettings
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


def parts_of(folder: Path) -> dict[str, set[str]]:
    """Part of a folder -> its files."""
    return {part: set(image_folder(folder).parts[part].files) for part in ("train", "test")}


def test_flat_folder_has_a_test_part_that_no_seed_moves(flat_folder: Path) -> None:
    digests = set()
    for seed in (0, 1):
        asked = folder_settings(flat_folder, seed=seed)
        data, test = load_dataset(asked, NOWHERE), load_test_set(asked, NOWHERE)
        assert np.bincount(test.labels).min() >= 1
        assert len(data.train) + len(data.calibration) + len(data.validation) == 20 - len(test)
        trained = {image.tobytes() for image in data.train.images}
        assert not trained & {image.tobytes() for image in test.images}
        digests.add(test.digest)
    assert len(digests) == 1


def test_in_a_flat_folder_the_hash_of_a_path_decides_its_part(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(500):
            (tmp_path / name / f"{number}.png").touch()
    parts = parts_of(tmp_path)
    expected = {
        file
        for file in parts["train"] | parts["test"]
        if int(hashlib.sha256(file.encode()).hexdigest(), 16) / 2**256 < 0.2
    }
    assert parts["test"] == expected and len(parts["train"] | parts["test"]) == 1000
    assert 150 < len(expected) < 250, "about a fifth"


@given(count=st.integers(3, 12), removed=st.data())
def test_removing_an_image_of_a_flat_folder_moves_no_other(count: int, removed: st.DataObject) -> None:
    """But each part keeps an image of each class."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        for name in ("cat", "dog"):
            (folder / name).mkdir()
            for number in range(count):
                (folder / name / f"{number}.png").touch()
        before = parts_of(folder)
        gone = removed.draw(st.sampled_from(sorted(before["train"] | before["test"])))
        (folder / gone).unlink()
        after = parts_of(folder)
        own = [{file for file in files if file.split("/")[0] == gone.split("/")[0]} for files in before.values()]
        for part in ("train", "test"):
            assert {file.split("/")[0] for file in after[part]} == {"cat", "dog"}
            if {gone} not in own:
                assert after[part] == before[part] - {gone}


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


def count_of(data: Dataset) -> dict[str, int]:
    """Split -> its images, the test part included."""
    return {**{name: n for name, n in data.image_counts.items() if name != "classes"}, "test": data.test_images or 0}


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
    told = refusal(flat_folder, calibration=0.25, validation=0.25)
    assert "'eel' has 1 image" in told or count == 3


def test_a_class_with_too_few_images_says_how_many_are_in_the_test_part(flat_folder: Path) -> None:
    fill(flat_folder / "pair", 2)
    told = refusal(flat_folder, calibration=0.25, validation=0.25)
    assert "class 'pair' has 1 image to train, calibrate and validate on (1 more in the test part)" in told


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_image_that_cannot_be_read_is_named(flat_folder: Path, content: bytes | None) -> None:
    damaged = flat_folder / min(parts_of(flat_folder)["train"])
    damaged.write_bytes(damaged.read_bytes()[:400] if content is None else content)
    assert f"cannot read image {damaged} (" in refusal(flat_folder)


def test_all_images_that_cannot_be_read_are_named_with_their_number(flat_folder: Path) -> None:
    """Of all splits at once."""
    training = sorted(parts_of(flat_folder)["train"])
    for name in training:
        (flat_folder / name).write_bytes(b"damaged")
    told = refusal(flat_folder)
    assert f"cannot read {len(training)} images: mend or remove {flat_folder}" in told
    named = [name for name in training if str(flat_folder / name) in told]
    assert (named and f" and {len(training) - len(named)} more" in told) or len(named) == len(training)
    for name in training[3:]:
        fill(flat_folder / name.split("/")[0], 10)
    for name in training[:3]:
        (flat_folder / name).write_bytes(b"damaged")
    told = refusal(flat_folder)
    assert "cannot read 3 images" in told and all(str(flat_folder / name) in told for name in training[:3])


def test_many_images_that_cannot_be_read_take_one_short_line() -> None:
    error = UnreadableImagesError([f"/images/cat/{number}.png (damaged)" for number in range(100_000)])
    assert "100000 images" in str(error) and "more" in str(error) and len(str(error)) < 1000


@pytest.mark.parametrize("layout", ["flat", "split"])
def test_a_damaged_test_image_is_told_when_asked_and_by_its_own_loading(layout: str, tmp_path: Path) -> None:
    for part in ("",) if layout == "flat" else ("train", "test"):
        for name in ("cat", "dog"):
            fill(tmp_path / part / name, 10)
    parts = parts_of(tmp_path)
    (tmp_path / min(parts["test"])).write_bytes(b"damaged")
    (tmp_path / min(parts["train"])).write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot read 2 images") as error:
        load_dataset(folder_settings(tmp_path), NOWHERE, check_test=True)
    assert all(str(tmp_path / min(files)) in one_line(error) for files in parts.values())
    (tmp_path / min(parts["train"])).unlink()
    with pytest.raises(UserError, match=re.escape(str(tmp_path / min(parts["test"])))):
        load_dataset(folder_settings(tmp_path), NOWHERE, check_test=True)
    load_dataset(folder_settings(tmp_path), NOWHERE)
    (tmp_path / min(parts["test"])).unlink()
    load_dataset(folder_settings(tmp_path), NOWHERE, check_test=True)


@pytest.mark.parametrize("ending", ["h5", "hdf", "grib", "bufr", "mpg", "mpeg", "pdf", "txt", "eps"])
def test_files_that_pillow_cannot_decode_are_no_images(flat_folder: Path, ending: str) -> None:
    """Pillow registers endings of formats that it only recognises."""
    before = load_dataset(folder_settings(flat_folder), NOWHERE, check_test=True).info.digest
    for number in range(10):
        (flat_folder / "cat" / f"features{number}.{ending}").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert load_dataset(folder_settings(flat_folder), NOWHERE, check_test=True).info.digest == before


def test_a_decompression_bomb_is_named(flat_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in (500, 100):  # 600 pixels: Pillow warns above its limit and raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        told = refusal(flat_folder)
        assert "600 pixels, more than max_pixels allows: shrink it" in told and "bomb" in told
    assert len(load_dataset(folder_settings(flat_folder, max_pixels=600), NOWHERE).train)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_classes_of_train_and_test_must_agree(split_folder: Path) -> None:
    fill(split_folder / "test" / "eel", 3)
    assert "eel only in test/" in refusal(split_folder)
    shutil.rmtree(split_folder / "test" / "eel")
    fill(split_folder / "train" / "fox", 10)
    assert "fox only in train/" in refusal(split_folder)
    shutil.rmtree(split_folder / "test")
    told = refusal(split_folder)
    assert "lacks test/" in told and told.endswith(
        f"to keep about a fifth of the images for the test, give {split_folder / 'train'}"
    )


def test_links_into_a_store_are_read(flat_folder: Path, tmp_path: Path) -> None:
    """Data tools keep images in a store and link files or class folders to them."""
    fill(tmp_path / "store", 10)
    before = load_dataset(folder_settings(flat_folder), NOWHERE)
    (flat_folder / "cat" / "link.png").symlink_to(tmp_path / "store" / "000.png")
    (flat_folder / "eel").symlink_to(tmp_path / "store")
    after = load_dataset(folder_settings(flat_folder), NOWHERE)
    assert after.info.class_names == ("cat", "dog", "eel")
    assert sum(count_of(after).values()) == sum(count_of(before).values()) + 11
    for name in ("cat", "dog"):  # a copy without links is the same data set
        shutil.copytree(flat_folder / name, tmp_path / "copy" / name)
    shutil.copytree(tmp_path / "store", tmp_path / "copy" / "eel")
    assert load_dataset(folder_settings(tmp_path / "copy"), NOWHERE).info.digest == after.info.digest


def test_a_link_to_a_folder_above_it_is_passed_over(flat_folder: Path) -> None:
    (flat_folder / "cat" / "again").symlink_to(flat_folder / "cat")
    data = load_dataset(folder_settings(flat_folder), NOWHERE)
    assert sum(count_of(data).values()) == 20
    assert data.notes == ("passed over: 1 links to a folder above them",)


def test_links_within_the_folder_are_followed_and_broken_ones_named(flat_folder: Path) -> None:
    (flat_folder / "cat" / "again.png").symlink_to(flat_folder / "cat" / "000.png")
    load_dataset(folder_settings(flat_folder), NOWHERE)
    (flat_folder / "cat" / "broken.png").symlink_to(flat_folder / "cat" / "gone.png")
    assert "broken.png" in refusal(flat_folder)


def test_a_pipe_is_no_image(flat_folder: Path) -> None:
    os.mkfifo(flat_folder / "cat" / "pipe.png")
    assert "pipe.png" in refusal(flat_folder)


@given(name=st.text(st.sampled_from("a.B "), min_size=1))
def test_the_ending_of_a_name_is_that_of_a_path(name: str) -> None:
    if name not in (".", ".."):
        assert ending_of(name) == PurePosixPath(name).suffix.lower()
