"""Published data sets of image files, in their true formats, on small files made here."""

from __future__ import annotations

import json
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from support.refusals import one_line
from torchvision import datasets

from study.data.loading import load_dataset, load_test_set
from study.data.settings import DataSettings
from study.errors import UserError

NAMES = ("flowers102", "food101", "oxford_pets", "eurosat", "gtsrb")
CLASSES = 3
PER_CLASS = 8


def colour(label: int, number: int) -> tuple[int, int, int]:
    """The class of an image can be seen: 0 is red, 1 green, 2 blue."""
    return tuple(200 if channel == label else number for channel in range(3))  # type: ignore[return-value]


def draw(path: Path, label: int, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), colour(label, number)).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def fabricate(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight images of each class for training, four for test, two for validation where there is such a split."""
    numbers = [(label, number) for label in range(CLASSES) for number in range(PER_CLASS + 6)]
    part = {n: "trn" if n < PER_CLASS else ("tst" if n < PER_CLASS + 4 else "val") for _, n in numbers}
    if name == "flowers102":
        folder, ids = root / "flowers-102", {"trn": [], "val": [], "tst": []}
        for image, (label, number) in enumerate(numbers, start=1):
            draw(folder / "jpg" / f"image_{image:05d}.jpg", label, number)
            ids[part[number]].append(image)
        savemat(folder / "imagelabels.mat", {"labels": np.array([label + 1 for label, _ in numbers])})
        savemat(folder / "setid.mat", {"trnid": ids["trn"], "valid": ids["val"], "tstid": ids["tst"]})
        known = {key: list(value) for key, value in datasets.Flowers102._file_dict.items()}
        for key in ("label", "setid"):
            known[key][1] = md5((folder / known[key][0]).read_bytes()).hexdigest()
        monkeypatch.setattr(datasets.Flowers102, "_file_dict", known)
        monkeypatch.setattr(datasets.Flowers102, "classes", ["pink primrose", "sweet pea", "marigold"])
    elif name == "food101":
        names, lists = ("apple_pie", "bibimbap", "cannoli"), {"train": {}, "test": {}}
        for label, number in numbers:
            draw(root / "food-101/images" / names[label] / f"{number}.jpg", label, number)
            listed = lists["train" if part[number] == "trn" else "test"]
            listed.setdefault(names[label], []).append(f"{names[label]}/{number}")
        (root / "food-101/meta").mkdir()
        for one, content in lists.items():
            (root / f"food-101/meta/{one}.json").write_text(json.dumps(content))
    elif name == "oxford_pets":
        names, lines = ("Abyssinian", "american_bulldog", "Bengal"), {"trainval": [], "test": []}
        for label, number in numbers:
            draw(root / "oxford-iiit-pet/images" / f"{names[label]}_{number}.jpg", label, number)
            listed = lines["trainval" if part[number] == "trn" else "test"]
            listed.append(f"{names[label]}_{number} {label + 1} 1 1")
        (root / "oxford-iiit-pet/annotations").mkdir()
        for one, rows in lines.items():
            (root / f"oxford-iiit-pet/annotations/{one}.txt").write_text("\n".join(rows) + "\n")
    elif name == "eurosat":
        for label, number in numbers:
            draw(root / "eurosat/2750" / ("AnnualCrop", "Forest", "River")[label] / f"x_{number}.jpg", label, number)
    else:
        rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
        for label, number in numbers:
            if part[number] == "trn":
                draw(root / "gtsrb/GTSRB/Training" / f"{label:05d}" / f"00000_{number:05d}.ppm", label, number)
            else:
                file = f"{label * 100 + number:05d}.ppm"
                draw(root / "gtsrb/GTSRB/Final_Test/Images" / file, label, number)
                rows.append(f"{file};12;10;1;1;9;9;{label}")
        (root / "gtsrb/GT-final_test.csv").write_text("\n".join(rows) + "\n")


def settings(name: str) -> DataSettings:
    return DataSettings(name=name, image_size=8, calibration=0.2, validation=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_images_have_their_classes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricate(name, tmp_path, monkeypatch)
    data, test = load_dataset(settings(name), tmp_path, check_test=True), load_test_set(settings(name), tmp_path)
    counts = [len(split) for split in (data.train, data.calibration, data.validation, test)]
    if name == "flowers102":
        assert counts == [19, 5, 6, 12] and data.info.class_names[1] == "sweet pea"
    elif name == "eurosat":
        assert sum(counts) == 42 and data.info.class_names == ("AnnualCrop", "Forest", "River")
    else:
        assert counts == [14, 5, 5, 18] and len(data.info.class_names) == 3
    assert data.test_images == len(test)
    for split in (data.train, data.calibration, data.validation, test):
        assert (split.images.mean(axis=(2, 3)).argmax(axis=1) == split.labels).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_data_set_that_is_not_there_names_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_dataset(settings(name), tmp_path)
    told = one_line(error)
    assert f"{name!r} is not complete" in told and str(tmp_path) in told and "--download" in told
    assert list(tmp_path.iterdir()) == []


def test_missing_images_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricate("food101", tmp_path, monkeypatch)
    for number in range(5):
        (tmp_path / f"food-101/images/cannoli/{number}.jpg").unlink()
    with pytest.raises(UserError, match="5 of 42 images are not in"):
        load_dataset(settings("food101"), tmp_path)


@pytest.mark.parametrize("path", ["../../../etc/passwd", "/etc/passwd"])
def test_lists_do_not_lead_out_of_the_folder(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricate("food101", tmp_path, monkeypatch)
    listed = tmp_path / "food-101/meta/train.json"
    content = json.loads(listed.read_text())
    content["cannoli"][0] = path
    listed.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"cannot be read|are not in"):
        load_dataset(settings("food101"), tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"cannoli": 3}', "{}", '{"one": []}'])
def test_damaged_lists_are_told(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricate("food101", tmp_path, monkeypatch)
    (tmp_path / "food-101/meta/train.json").write_text(content)
    with pytest.raises(UserError, match=r"'food101' in .* cannot be read"):
        load_dataset(settings("food101"), tmp_path)
