"""How own images lie in folders, and what is passed over."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.refusals import one_line

from study.data.loading import count_test_images, load_dataset, load_test_set
from study.data.settings import Dataset, DataSettings
from study.errors import UserError

CLASSES = ("cat", "dog")


def fill(folder: Path, count: int) -> None:
    """Images that differ, by folder and number."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(list(str(folder).encode()))
    for number in range(count):
        Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / f"{number:03}.png")


def loaded(folder: Path, **changes: Any) -> Dataset:
    asked = DataSettings(name="image_folder", folder=str(folder), image_size=8, **changes)
    data = load_dataset(asked, folder, check_test=True)
    assert data.test_images == count_test_images(asked, folder) == len(load_test_set(asked, folder))
    return data


def counts(data: Dataset) -> tuple[int, int, int, int | None]:
    return len(data.train), len(data.calibration), len(data.validation), data.test_images


def refusal(folder: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as error:
        loaded(folder, **changes)
    return one_line(error)


def test_images_below_a_class_folder_belong_to_the_class(tmp_path: Path) -> None:
    """As torchvision reads it, and as Tiny ImageNet comes: train/<class>/images/*.png."""
    for name in CLASSES:
        fill(tmp_path / "train" / name / "images", 10)
        fill(tmp_path / "train" / name / "more" / "of" / "them", 10)
        fill(tmp_path / "test" / name, 5)
    assert counts(loaded(tmp_path)) == (32, 4, 4, 10)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_with_train_and_val_alone_val_is_the_test_part(tmp_path: Path, name: str) -> None:
    for one in CLASSES:
        fill(tmp_path / "train" / one, 10)
        fill(tmp_path / name / one, 4)
    data = loaded(tmp_path)
    assert counts(data) == (16, 2, 2, 8)
    assert data.notes == (f"{name}/ is the test part, and the validation split is cut from train/",)


def test_with_all_three_val_is_the_validation_split(tmp_path: Path) -> None:
    for part, count in (("Train", 10), ("val", 4), ("Test", 3)):
        for one in CLASSES:
            fill(tmp_path / part / one, count)
    data = loaded(tmp_path)
    assert counts(data) == (18, 2, 8, 6) and data.notes == ("val/ is the validation split",)
    assert counts(loaded(tmp_path, limit=10, certification=0.2)) == (7, 1, 8, 6), "limit is of train/ alone"
    pixels = {image.tobytes() for image in data.validation.images}
    assert not pixels & {image.tobytes() for split in (data.train, data.calibration) for image in split.images}
    before = data.info.digest
    fill(tmp_path / "val" / "cat", 5)
    assert loaded(tmp_path).info.digest != before


def test_a_test_folder_without_classes_is_passed_over(tmp_path: Path) -> None:
    """Contests publish the images to be classified so."""
    for one in CLASSES:
        fill(tmp_path / "train" / one, 10)
        fill(tmp_path / "val" / one, 4)
    fill(tmp_path / "test" / "images", 20)
    data = loaded(tmp_path)
    assert counts(data) == (16, 2, 2, 8)
    assert "passed over: 1 folder test/ without class folders" in data.notes
    shutil.rmtree(tmp_path / "val")
    assert "one class only (images)" in refusal(tmp_path)


def test_validation_classes_must_agree_and_few_are_named(tmp_path: Path) -> None:
    for number in range(20):
        fill(tmp_path / "train" / f"class{number:02}", 4)
    for part in ("val", "test"):
        for one in CLASSES:
            fill(tmp_path / part / one, 4)
    told = refusal(tmp_path)
    assert "train/ and val/ must hold the same classes" in told or "same classes" in told
    assert "and 17 more" in told


def test_what_other_programs_leave_behind_is_passed_over_and_told(tmp_path: Path) -> None:
    for one in CLASSES:
        fill(tmp_path / one, 10)
    before = loaded(tmp_path)
    assert before.notes == ()
    for junk in (
        "__MACOSX/cat",
        "@eaDir",
        ".git",
        "lost+found",
        "#recycle",
        "$RECYCLE.BIN",
        "System Volume Information",
    ):
        fill(tmp_path / junk, 1)
    fill(tmp_path / "cat" / "@eaDir" / "000.png", 1)
    for file in (".DS_Store", "Thumbs.db", "desktop.ini", "cat/._000.png", "cat/Thumbs.db", "readme.md"):
        (tmp_path / file).write_bytes(b"junk")
    after = loaded(tmp_path)
    assert after.info.digest == before.info.digest and after.info.class_names == CLASSES
    (note,) = after.notes
    assert note.startswith("passed over: 3 hidden, 2 ") and "2 @eaDir/" in note and "2 Thumbs.db" in note


def test_images_left_out_are_told_by_reason(tmp_path: Path) -> None:
    for one in CLASSES:
        fill(tmp_path / one, 10)
    for number in range(6):
        (tmp_path / "cat" / f"{number}.HEIC").write_bytes(b"no decoder")
    for number in range(3):
        (tmp_path / "dog" / f"page{number}").write_text("words")
    (tmp_path / "dog" / "000.png").rename(tmp_path / "loose.png")
    (note,) = loaded(tmp_path).notes
    expected = "6 .heic files, 3 files without an ending that are no images, 1 images beside the class folders"
    assert note == f"passed over: {expected}"


def test_images_without_an_ending_are_read(tmp_path: Path) -> None:
    for one in CLASSES:
        fill(tmp_path / one, 10)
    for format in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"):
        Image.open(tmp_path / "cat" / "001.png").save(tmp_path / "cat" / format.lower(), format=format)
    assert sum(filter(None, counts(loaded(tmp_path)))) == 26


def test_limits_are_told(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for one in CLASSES:
            fill(tmp_path / part / one, 20)
    assert loaded(tmp_path, limit=30, test_limit=4).notes == (
        "limit: 30 of 40 images of the training part are used",
        "test_limit: 4 of 40 images of the test part are used",
    )
    assert loaded(tmp_path, limit=40, test_limit=40).notes == ()


def test_uneven_classes_are_told(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "cat", 60)
    fill(tmp_path / "train" / "dog", 12)
    for one in CLASSES:
        fill(tmp_path / "test" / one, 2)
    (note,) = loaded(tmp_path).notes
    assert "'cat' has 60 images" in note and "'dog' has 12" in note and "right for 83.3% of them" in note


def test_a_folder_around_the_classes_is_named(tmp_path: Path) -> None:
    for one in CLASSES:
        fill(tmp_path / "pets" / one, 10)
    assert f"pets/ holds 2 folders: if they are the classes, give {tmp_path / 'pets'}" in refusal(tmp_path)
