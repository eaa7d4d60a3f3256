"""The data sets of torchvision in their true formats, on files made here; pixels."""

import pickle
import struct
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from support.refusals import one_line
from torchvision import datasets

from study.data.loading import load_dataset, load_test_set
from study.data.pixels import convert_channels, resize
from study.data.settings import DataSettings
from study.errors import UserError

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
