"""Own images that a table names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.refusals import one_line

from study.data.loading import load_dataset, load_test_set
from study.data.settings import Dataset, DataSettings
from study.errors import UserError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """20 images, which differ, in a folder without classes."""
    (tmp_path / "photos").mkdir()
    random = np.random.default_rng(0)
    for number in range(20):
        Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(tmp_path / f"photos/{number:02}.png")
    return tmp_path


def rows(splits: list[str] | None = None) -> pd.DataFrame:
    table = pd.DataFrame({"path": [f"photos/{n:02}.png" for n in range(20)], "label": ["cat", "dog"] * 10})
    return table if splits is None else table.assign(split=splits)


def loaded(table: Path, **changes: Any) -> Dataset:
    asked = DataSettings(name="image_folder", table=str(table), image_size=8, **changes)
    data = load_dataset(asked, table.parent, check_test=True)
    assert data.test_images == len(load_test_set(asked, table.parent))
    return data


def write(folder: Path, table: pd.DataFrame, ending: str = "csv") -> Path:
    path = folder / f"table.{ending}"
    table.to_csv(path, index=False) if ending == "csv" else table.to_parquet(path)
    return path


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_names_images_and_classes(photos: Path, ending: str) -> None:
    table = rows()
    data = loaded(write(photos, table, ending))
    assert data.info.class_names == ("cat", "dog")
    seen = {image.tobytes(): label for image, label in zip(data.train.images, data.train.labels, strict=True)}
    for path, label in zip(table.path, table.label, strict=True):
        pixels = np.asarray(Image.open(photos / path).resize((8, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        assert seen.get(pixels.tobytes(), ("cat", "dog").index(label)) == ("cat", "dog").index(label)
    shuffled = loaded(write(photos, table.sample(frac=1, random_state=1), ending))
    assert shuffled.info.digest == data.info.digest, "the order of the rows does not matter"


def test_other_labels_are_other_data(photos: Path) -> None:
    before = loaded(write(photos, rows())).info.digest
    renamed = rows().assign(label=["dog", "cat"] * 10)
    assert loaded(write(photos, renamed)).info.digest != before


def test_numbers_are_classes_in_their_order(photos: Path) -> None:
    assert loaded(write(photos, rows().assign(label=[2, 10] * 10))).info.class_names == ("2", "10")


def test_splits_of_a_table(photos: Path) -> None:
    data = loaded(write(photos, rows(["train"] * 12 + ["VAL"] * 4 + ["test"] * 4)), calibration=0.2)
    assert (len(data.train), len(data.calibration), len(data.validation), data.test_images) == (10, 2, 4, 4)
    data = loaded(write(photos, rows(["train"] * 14 + ["val"] * 6)), calibration=0.2, validation=0.2)
    assert data.test_images == 6 and data.notes == ("val is the test part, and the validation split is cut from train",)


def test_paths_never_leave_the_folder(photos: Path) -> None:
    for bad in ("/etc/passwd", "../x.png", "photos/../../x.png", "", "a\0b", "a\nb"):
        with pytest.raises(UserError, match="no path below the folder"):
            loaded(write(photos, rows().assign(path=[bad, *rows().path[1:]]), "parquet"))


def test_missing_images_are_named_with_their_number(photos: Path) -> None:
    table = write(photos, rows())
    for number in range(5):
        (photos / f"photos/{number:02}.png").unlink()
    with pytest.raises(UserError) as error:
        loaded(table)
    assert "5 of 20 images are not in" in one_line(error) and "photos/00.png" in one_line(error)
    assert "and 2 more" in one_line(error)
