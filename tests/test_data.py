"""Data sets, splits, image folders and batched preprocessing. Every file that is read here is made here."""

import json
import os
import pickle
import shutil
import struct
import warnings
from dataclasses import asdict, replace
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from study.data import (
    DataInfo,
    DataSettings,
    ImageSet,
    augment,
    load_dataset,
    load_test_set,
    normalize,
    place,
    read_image,
    resolve,
)
from study.data.pixels import convert_channels, mean_and_std, resize
from study.data.splits import apportion, cut
from study.errors import UserError

NOWHERE = Path("nowhere")  # digits need no files


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    line = str(error.value)
    assert "\n" not in line
    return line


# Settings


@pytest.mark.parametrize(
    ("name", "image_size", "channels"),
    [("digits", 32, 1), ("cifar10", 32, 3), ("svhn", 32, 3), ("stl10", 96, 3), ("fashion_mnist", 32, 1)],
)
def test_resolve_fills_in_defaults_once(name: str, image_size: int, channels: int) -> None:
    resolved = resolve(DataSettings(name=name))
    assert (resolved.image_size, resolved.channels) == (image_size, channels)
    assert resolve(resolved) == resolved


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "mnist"}, "unknown data set 'mnist'"),
        ({"image_size": 0}, "image_size"),
        ({"image_size": "32"}, "image_size"),
        ({"image_size": True}, "image_size"),
        ({"channels": 2}, "channels must be 1 or 3"),
        ({"channels": True}, "channels must be 1 or 3"),
        ({"channels": 3.0}, "channels must be 1 or 3"),
        ({"calibration": 0.0}, "calibration"),
        ({"calibration": float("nan")}, "calibration"),
        ({"validation": 1.5}, "validation"),
        ({"validation": "0.1"}, "validation"),
        ({"calibration": 0.5, "validation": 0.5}, "sum must be below 1"),
        ({"limit": 0}, "limit"),
        ({"test_limit": -1}, "test_limit"),
        ({"seed": -1}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"folder": "somewhere"}, "image_folder only"),
        ({"name": "image_folder"}, "name the folder"),
    ],
)
def test_resolve_refuses_what_cannot_be(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        resolve(DataSettings(**{"name": "digits", **wrong}))
    assert said in one_line(error)


# Splits

class_sizes = st.lists(st.integers(3, 60), min_size=2, max_size=8)
shares = st.tuples(st.floats(0.05, 0.45), st.floats(0.05, 0.45))


def labels_of(sizes: list[int]) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int64)


def cut_or_refuse(sizes: list[int], share: tuple[float, float], seed: int) -> dict[str, np.ndarray] | None:
    names = [f"class {label}" for label in range(len(sizes))]
    try:
        return cut(labels_of(sizes), names, calibration=share[0], validation=share[1], limit=None, seed=seed)
    except UserError:
        return None


@settings(max_examples=150, deadline=None)
@given(sizes=class_sizes, share=shares, seed=st.integers(0, 2**40))
def test_cut_is_a_stratified_partition(sizes: list[int], share: tuple[float, float], seed: int) -> None:
    splits = cut_or_refuse(sizes, share, seed)
    if splits is None:
        return
    labels = labels_of(sizes)
    together = np.concatenate(list(splits.values()))
    assert np.array_equal(np.sort(together), np.arange(len(labels)))
    counts = {name: np.bincount(labels[indices], minlength=len(sizes)) for name, indices in splits.items()}
    assert (counts["train"] >= 1).all()
    for name, wanted in (("calibration", share[0]), ("validation", share[1])):
        assert (np.abs(counts[name] - wanted * np.asarray(sizes)) <= 1).all()
        if int(wanted * sum(sizes) + 0.5) >= len(sizes):
            assert (counts[name] >= 1).all()
    again = cut_or_refuse(sizes, share, seed)
    assert again is not None
    assert all(np.array_equal(again[name], splits[name]) for name in splits)


@settings(max_examples=150, deadline=None)
@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=8), share=st.floats(0, 1))
def test_apportion_seats_exactly_the_total(sizes: list[int], share: float) -> None:
    total = int(share * sum(sizes))
    counts = apportion(np.asarray(sizes), total)
    assert counts.sum() == total
    assert (counts >= 0).all() and (counts <= sizes).all()
    if total >= np.count_nonzero(sizes):
        assert ((counts > 0) == (np.asarray(sizes) > 0)).all()


def test_shares_of_equal_classes_are_exact() -> None:
    splits = cut(labels_of([50] * 4), "abcd", calibration=0.1, validation=0.2, limit=None, seed=3)
    assert {name: len(indices) for name, indices in splits.items()} == {
        "train": 140,
        "calibration": 20,
        "validation": 40,
    }


def test_large_shares_of_small_classes_leave_one_to_train_on() -> None:
    splits = cut(labels_of([5] * 10), "abcdefghij", calibration=0.45, validation=0.45, limit=None, seed=0)
    assert len(splits["train"]) == 10


def test_a_seed_moves_the_splits() -> None:
    first, second = (cut_or_refuse([30, 30], (0.2, 0.2), seed) for seed in (0, 1))
    assert first is not None and second is not None
    assert not np.array_equal(first["calibration"], second["calibration"])


def test_the_cut_never_changes_between_versions() -> None:
    """A checkpoint of today must find its validation images tomorrow, on any machine."""
    labels = np.repeat([0, 1], [6, 7])
    splits = cut(labels, "ab", calibration=0.2, validation=0.2, limit=12, seed=7)
    assert {name: indices.tolist() for name, indices in splits.items()} == {
        "train": [0, 1, 2, 4, 6, 8, 11, 12],
        "calibration": [3, 10],
        "validation": [5, 7],
    }


def test_a_class_that_is_too_small_is_named() -> None:
    with pytest.raises(UserError) as error:
        cut(labels_of([40, 2]), ("cat", "dog"), calibration=0.1, validation=0.1, limit=None, seed=0)
    assert "'dog' has 2 images" in one_line(error)


def test_a_split_that_no_class_can_spare_an_image_for_is_refused() -> None:
    with pytest.raises(UserError, match="10 images in 10 classes are too few"):
        cut(labels_of([1] * 10), "abcdefghij", calibration=0.1, validation=0.1, limit=None, seed=0)


def test_a_share_without_images_is_refused() -> None:
    with pytest.raises(UserError, match=r"calibration share 0.001 of 42 images"):
        cut(labels_of([40, 2]), ("cat", "dog"), calibration=0.001, validation=0.1, limit=None, seed=0)


def test_limit_is_stratified_and_applied_first() -> None:
    labels = labels_of([600, 300, 100])
    splits = cut(labels, "abc", calibration=0.1, validation=0.1, limit=100, seed=0)
    kept = np.concatenate(list(splits.values()))
    assert np.bincount(labels[kept]).tolist() == [60, 30, 10]
    assert len(splits["calibration"]) == 10
    with pytest.raises(UserError, match="limit 2 is too small for 3 classes"):
        cut(labels, "abc", calibration=0.1, validation=0.1, limit=2, seed=0)


# Digits


def test_digits_scaled_by_repetition_with_a_test_part_that_no_seed_moves() -> None:
    data = load_dataset(DataSettings(name="digits"), NOWHERE)
    test = load_test_set(DataSettings(name="digits"), NOWHERE)
    assert data.train.images.shape[1:] == (1, 32, 32) and data.train.images.dtype == np.uint8
    assert sum(map(len, (data.train, data.calibration, data.validation, test))) == 1797
    assert len(test) == 359
    assert data.train.images.max() == 255
    blocks = data.train.images[:, :, ::4, ::4].repeat(4, axis=2).repeat(4, axis=3)
    assert np.array_equal(data.train.images, blocks)
    other_seed = load_test_set(DataSettings(name="digits", seed=5), NOWHERE)
    assert other_seed.digest == test.digest
    seen = {image.tobytes() for split in (data.train, data.calibration, data.validation) for image in split.images}
    assert not seen & {image.tobytes() for image in test.images}


def test_digits_of_another_size_and_colour() -> None:
    test = load_test_set(DataSettings(name="digits", image_size=20, channels=3, test_limit=50), NOWHERE)
    assert test.images.shape == (50, 3, 20, 20)
    assert (test.images[:, 0] == test.images[:, 2]).all()
    assert (np.bincount(test.labels) == 5).all()


def test_mean_and_std_are_those_of_the_train_split() -> None:
    data = load_dataset(DataSettings(name="digits", channels=3, limit=200), NOWHERE)
    pixels = data.train.images / 255
    assert data.info.mean == pytest.approx(pixels.mean(axis=(0, 2, 3)))
    assert data.info.std == pytest.approx(pixels.std(axis=(0, 2, 3)))
    mean, std = mean_and_std(np.full((3, 1, 2, 2), 51, np.uint8))
    assert mean == pytest.approx((0.2,)) and std == (1 / 255,)


def test_digest_follows_what_decides_the_pixels() -> None:
    plain = DataSettings(name="digits", limit=200)
    digest = load_dataset(plain, NOWHERE).info.digest
    assert load_dataset(plain, NOWHERE).info.digest == digest
    assert load_dataset(replace(plain, test_limit=20), NOWHERE).info.digest == digest
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"image_size": 16},
        {"channels": 3},
        {"limit": 190},
        {"calibration": 0.2},
    ]
    others = {load_dataset(replace(plain, **change), NOWHERE).info.digest for change in changes}
    assert len(others | {digest}) == len(changes) + 1


def test_info_survives_json() -> None:
    info = load_dataset(DataSettings(name="digits", limit=100), NOWHERE).info
    assert DataInfo.from_json(json.loads(json.dumps(info.to_json()))) == info
    assert DataInfo(**asdict(info)) == info


# The five data sets of torchvision, in their true formats

CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10, "stl10": 10, "fashion_mnist": 10}
PER_CLASS = 5


def pixels_and_labels(name: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `[N, H, W, C]` and labels that the fabricated files hold."""
    random = np.random.default_rng([list(CLASSES).index(name), part == "test"])
    labels = random.permutation(np.repeat(np.arange(CLASSES[name]), PER_CLASS if part == "train" else 2))
    shape = {"stl10": (96, 96, 3), "fashion_mnist": (28, 28, 1)}.get(name, (32, 32, 3))
    return random.integers(0, 256, (len(labels), *shape), dtype=np.uint8), labels


def write(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return md5(content).hexdigest()


def fabricate(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a small data set as published, and let torchvision expect its checksums."""
    both = {part: pixels_and_labels(name, part) for part in ("train", "test")}
    if name in ("cifar10", "cifar100"):
        published = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
        key = "labels" if name == "cifar10" else "fine_labels"
        folder = root / published.base_folder
        for part, file_list in (("train", "train_list"), ("test", "test_list")):
            pixels, labels = both[part]
            files = [file for file, _ in getattr(published, file_list)]
            sums = []
            for file, chosen in zip(files, np.array_split(np.arange(len(labels)), len(files)), strict=True):
                flat = pixels[chosen].transpose(0, 3, 1, 2).reshape(len(chosen), -1)
                sums.append(write(folder / file, pickle.dumps({"data": flat, key: labels[chosen].tolist()})))
            monkeypatch.setattr(published, file_list, [list(pair) for pair in zip(files, sums, strict=True)])
        names = [f"thing {label}" for label in range(CLASSES[name])]
        checksum = write(folder / published.meta["filename"], pickle.dumps({published.meta["key"]: names}))
        monkeypatch.setattr(published, "meta", {**published.meta, "md5": checksum})
    elif name == "svhn":
        split_list = {}
        for part, (pixels, labels) in both.items():
            file = root / f"{part}_32x32.mat"
            savemat(file, {"X": pixels.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]})
            split_list[part] = ["http://nowhere.invalid", file.name, md5(file.read_bytes()).hexdigest()]
        monkeypatch.setattr(datasets.SVHN, "split_list", split_list)
    elif name == "stl10":
        for part, (pixels, labels) in both.items():
            folder = root / "stl10_binary"
            entries = [
                [f"{part}_X.bin", write(folder / f"{part}_X.bin", pixels.transpose(0, 3, 2, 1).tobytes())],
                [f"{part}_y.bin", write(folder / f"{part}_y.bin", (labels + 1).astype(np.uint8).tobytes())],
            ]
            monkeypatch.setattr(datasets.STL10, f"{part}_list", entries)
    else:
        for prefix, (pixels, labels) in (("train", both["train"]), ("t10k", both["test"])):
            folder = root / "FashionMNIST" / "raw"
            images = struct.pack(">4I", 0x0803, len(pixels), 28, 28) + pixels.tobytes()
            write(folder / f"{prefix}-images-idx3-ubyte", images)
            numbers = struct.pack(">2I", 0x0801, len(labels)) + labels.astype(np.uint8).tobytes()
            write(folder / f"{prefix}-labels-idx1-ubyte", numbers)


@pytest.mark.parametrize("name", CLASSES)
def test_published_formats(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricate(name, tmp_path, monkeypatch)
    asked = DataSettings(name=name, calibration=0.2, validation=0.2)
    data, test = load_dataset(asked, tmp_path), load_test_set(asked, tmp_path)
    assert len(data.info.class_names) == CLASSES[name]
    assert [len(split) for split in (data.train, data.calibration, data.validation, test)] == [
        count * CLASSES[name] for count in (3, 1, 1, 2)
    ]
    pixels, labels = pixels_and_labels(name, "test")
    expected = pixels.transpose(0, 3, 1, 2)
    if name == "fashion_mnist":
        expected = np.pad(expected, ((0, 0), (0, 0), (2, 2), (2, 2)))
    assert np.array_equal(test.images, expected)
    assert np.array_equal(test.labels, labels) and test.labels.dtype == np.int64
    pixels, labels = pixels_and_labels(name, "train")
    border = 2 if name == "fashion_mnist" else 0
    known = {image.transpose(2, 0, 1).tobytes(): label for image, label in zip(pixels, labels.tolist(), strict=True)}
    for split in (data.train, data.calibration, data.validation):
        for image, label in zip(split.images, split.labels, strict=True):
            inner = image[:, border : image.shape[1] - border, border : image.shape[2] - border]
            assert known.pop(inner.tobytes()) == label
    assert not known


@pytest.mark.parametrize("name", CLASSES)
def test_no_test_file_is_needed_to_load_the_training_part(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fabricate(name, tmp_path, monkeypatch)
    for path in tmp_path.rglob("*"):
        if path.name.startswith(("test", "t10k")):
            path.unlink()
    load_dataset(DataSettings(name=name, calibration=0.2, validation=0.2, image_size=16), tmp_path)
    with pytest.raises(UserError, match="is not complete"):
        load_test_set(DataSettings(name=name), tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-batches-py/data_batch_3"),
        ("cifar100", "cifar-100-python/meta"),
        ("svhn", "train_32x32.mat"),
        ("stl10", "stl10_binary/train_y.bin"),
        ("fashion_mnist", "FashionMNIST/raw/train-labels-idx1-ubyte"),
    ],
)
def test_missing_and_damaged_files_are_named(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fabricate(name, tmp_path, monkeypatch)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError) as error:
        load_dataset(DataSettings(name=name), tmp_path)
    assert str(path if name != "fashion_mnist" else path.parent) in one_line(error)
    path.unlink()
    with pytest.raises(UserError) as error:
        load_dataset(DataSettings(name=name), tmp_path)
    line = one_line(error)
    assert f"put {path.name} in {path.parent}" in line and "--download" in line
    assert capfd.readouterr() == ("", "")


def test_a_download_that_fails_is_one_quiet_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no_network(*_: object, **__: object) -> None:
        print("Downloading")
        raise OSError("no route\nto host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    with pytest.raises(UserError) as error:
        load_dataset(DataSettings(name="cifar10"), tmp_path, download=True)
    assert "could not be downloaded" in one_line(error) and "no route to host" in one_line(error)
    assert capfd.readouterr() == ("", "")


def test_digest_follows_the_source_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricate("fashion_mnist", tmp_path, monkeypatch)
    asked = DataSettings(name="fashion_mnist", calibration=0.2, validation=0.2)
    before = load_dataset(asked, tmp_path).info.digest
    path = tmp_path / "FashionMNIST/raw/train-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert load_dataset(asked, tmp_path).info.digest != before


def test_fashion_can_keep_its_28_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricate("fashion_mnist", tmp_path, monkeypatch)
    test = load_test_set(DataSettings(name="fashion_mnist", image_size=28), tmp_path)
    assert np.array_equal(test.images[:, 0], pixels_and_labels("fashion_mnist", "test")[0][..., 0])


# Pixels


def test_grey_of_arrays_equals_grey_of_files() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 7, 7), dtype=np.uint8)
    grey = convert_channels(images, 1)
    for image, luma in zip(images, grey, strict=True):
        assert np.array_equal(luma[0], np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L")))
    assert np.array_equal(convert_channels(grey, 3), np.concatenate([grey] * 3, axis=1))


def test_resize_agrees_with_pillow() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32), dtype=np.uint8)
    for size in (16, 20, 48):
        resized = resize(images, size)
        for image, small in zip(images, resized, strict=True):
            by_pillow = np.asarray(Image.fromarray(image[0]).resize((size, size), Image.Resampling.BILINEAR))
            assert np.abs(small[0].astype(int) - by_pillow).max() <= 1


# Image folders


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


# Batches


def info_of(*, image_size: int = 16, channels: int = 3, flip: bool = True) -> DataInfo:
    return DataInfo(
        name="cifar10",
        image_size=image_size,
        channels=channels,
        class_names=("a", "b"),
        mean=(0.4, 0.5, 0.6)[:channels],
        std=(0.2, 0.25, 0.3)[:channels],
        flip=flip,
        crop_padding=image_size // 8,
        digest="",
        settings={},
    )


def random_batch(count: int, *, channels: int = 3, image_size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, channels, image_size, image_size), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_augment_equals_its_slow_twin(flip: bool, channels: int) -> None:
    images, info = random_batch(64, channels=channels), info_of(channels=channels, flip=flip)
    augmented = augment(images, info, torch.Generator().manual_seed(4))
    assert augmented.shape == images.shape and augmented.dtype == torch.uint8
    generator = torch.Generator().manual_seed(4)
    down, right = torch.randint(0, 2 * info.crop_padding + 1, (2, 64, 1), generator=generator).flatten(1)
    mirrored = torch.rand((64, 1), generator=generator).flatten() < 0.5
    for i in range(64):
        padded = torch.nn.functional.pad(images[i], (info.crop_padding,) * 4)
        crop = padded[:, down[i] : down[i] + 16, right[i] : right[i] + 16]
        assert torch.equal(augmented[i], crop.flip(2) if flip and mirrored[i] else crop)
    assert 0 < mirrored.sum() < 64 and len(down.unique()) == 2 * info.crop_padding + 1


def test_augment_repeats_itself_by_seed_only() -> None:
    images, info = random_batch(32), info_of()
    first, again, other = (augment(images, info, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_only_data_sets_that_may_be_mirrored_are() -> None:
    assert not load_dataset(DataSettings(name="digits", limit=100), NOWHERE).info.flip
    images = torch.arange(8, dtype=torch.uint8).expand(200, 1, 8, 8).contiguous()
    info = replace(info_of(image_size=8, channels=1, flip=False), crop_padding=0)
    assert torch.equal(augment(images, info, torch.Generator().manual_seed(0)), images)
    mirrored = augment(images, replace(info, flip=True), torch.Generator().manual_seed(0))
    assert 50 < (mirrored[:, 0, 0, 0] == 7).sum() < 150


def test_normalize_follows_its_formula_and_leaves_its_input_alone() -> None:
    images, info = random_batch(5), info_of()
    before = images.clone()
    normalized = normalize(images, info)
    expected = (images.double() / 255 - torch.tensor(info.mean)[:, None, None]) / torch.tensor(info.std)[:, None, None]
    assert normalized.dtype == torch.float32
    torch.testing.assert_close(normalized.double(), expected, atol=1e-5, rtol=0)
    assert torch.equal(images, before)


def test_place_shares_read_only_memory_without_a_warning() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)
    images.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = place(images, torch.device("cpu"))
        assert tensor.data_ptr() == images.ctypes.data
        assert torch.equal(place(images[::-1], torch.device("cpu")), tensor.flip(0))
        normalize(augment(tensor, info_of(image_size=8), torch.Generator()), info_of(image_size=8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    images, info, gpu = random_batch(32).numpy(), info_of(), torch.device("cuda")
    placed = place(images, gpu)
    assert placed.is_cuda
    here, there = (
        augment(batch, info, torch.Generator().manual_seed(2)) for batch in (torch.from_numpy(images), placed)
    )
    assert torch.equal(here, there.cpu())
    torch.testing.assert_close(normalize(here, info), normalize(there, info).cpu())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (images.nbytes, images.nbytes))
    in_host_memory = place(images, gpu)
    assert in_host_memory.device.type == "cpu" and in_host_memory.is_pinned()


def test_image_set_digest_names_its_images() -> None:
    images, labels = random_batch(3).numpy(), np.arange(3)
    digest = ImageSet(images=images, labels=labels).digest
    assert ImageSet(images=images.copy(), labels=labels).digest == digest
    assert ImageSet(images=images[::-1], labels=labels).digest != digest
    assert ImageSet(images=images, labels=labels[::-1]).digest != digest
