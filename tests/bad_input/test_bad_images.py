"""Images and data sets that cannot be used."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from support.corpus import CODE, TRAIN, Case, Workplace, each

from study.data.image_folder import image_folder

ONE = f"{TRAIN} --data image_folder --image-size 32 --no-save --folder pets"
STUDY = (
    "run own_images --folder pets --set data.calibration=0.2 --set data.validation=0.2 "
    "--set backbones.backbone=vgg11 --set backbones.width=0.125"
)


def bad(id: str, why: str, change: Callable[[Workplace], object], *told: str, command: str = ONE) -> Case:
    """Two classes of ten good images each, but for a change."""

    def arrange(place: Workplace) -> None:
        place.images("pets/cat", "pets/dog")
        change(place)

    return Case(id, why, arrange, command, told)


def parted(id: str, why: str, change: Callable[[Workplace], object], *told: str, command: str = ONE) -> Case:
    """The same in train and test."""

    def arrange(place: Workplace) -> None:
        place.images(*(f"pets/{part}/{name}" for part in ("train", "test") for name in ("cat", "dog")))
        change(place)

    return Case(id, why, arrange, command, told)


def every(content: Callable[[bytes], bytes], suffix: str = ".png", name: str = "cat") -> Callable[[Workplace], None]:
    """Change the content of every image of a class, wherever the splits put it."""

    def change(place: Workplace) -> None:
        for path in (place / "pets").rglob(f"{name}/*.png"):
            path.with_suffix(suffix).write_bytes(content(path.read_bytes()))
            if suffix != ".png":
                path.unlink()

    return change


def jpegs(place: Workplace) -> None:
    """Cut in the middle of the pixels."""
    for path in (place / "pets" / "cat").iterdir():
        Image.open(path).resize((64, 64)).save(path.with_suffix(".jpg"))
        path.unlink()
        content = path.with_suffix(".jpg").read_bytes()
        path.with_suffix(".jpg").write_bytes(content[: len(content) * 2 // 3])


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A PNG that says to be so large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def remove(*names: str) -> Callable[[Workplace], None]:
    def change(place: Workplace) -> None:
        for name in names:
            for path in sorted((place / "pets" / name).rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            (place / "pets" / name).rmdir()

    return change


def keep(count: int) -> Callable[[Workplace], None]:
    def change(place: Workplace) -> None:
        for path in (place / "pets").rglob("*.png"):
            if int(path.stem) >= count:
                path.unlink()

    return change


def wrap(place: Workplace) -> None:
    (place / "pets" / "all").mkdir()
    for name in ("cat", "dog"):
        (place / "pets" / name).rename(place / "pets" / "all" / name)


def part(place: Workplace) -> None:
    """The classes in train."""
    (place / "pets").rename(place / "train")
    (place / "pets").mkdir()
    (place / "train").rename(place / "pets" / "train")


def two_vals(place: Workplace) -> None:
    part(place)
    place.images("pets/val/cat", "pets/valid/cat")


def val_with(name: str, *, keep: bool = True) -> Callable[[Workplace], None]:
    def change(place: Workplace) -> None:
        part(place)
        place.images(f"pets/val/{name}", *(["pets/val/cat", "pets/val/dog"] if keep else []))

    return change


def val_empty(place: Workplace) -> None:
    part(place)
    place.images("pets/val/dog")
    (place / "pets/val/cat").mkdir()


def link(name: str, target: str) -> Callable[[Workplace], None]:
    def change(place: Workplace) -> None:
        place.images("secret")
        (place / "bare").mkdir()
        (place / "pets" / name).symlink_to(place / target)

    return change


def one_of_each_part(place: Workplace) -> None:
    """Damage one image for training and one of the test part."""
    for part in ("train", "test"):
        file = image_folder(place / "pets").parts[part].files[0]
        (place / "pets" / file).write_bytes(b"no image")


def one_test_image(place: Workplace) -> None:
    (place / "pets" / image_folder(place / "pets").parts["test"].files[0]).write_bytes(b"no image")


def odd_name(place: Workplace) -> None:
    for path in (place / "pets" / "cat").iterdir():
        path.write_bytes(b"no image")
        path.rename(path.with_name(os.fsdecode(b"caf\xe9\n") + path.name))


CAT = "pets/cat/"
FOLDERS = [
    bad("no-images", "files that are no images", every(lambda _: b"words", ".txt"), "pets/cat", "holds no image"),
    bad("no-class", "no class folder", remove("cat", "dog"), "pets", "no class folders", "one folder of images"),
    bad("one-class", "one class only", remove("cat"), "pets", "one class only (dog)", "at least two"),
    bad("one-image", "an image a class", keep(1), "'cat'", "1 image", "too few"),
    bad("three-images", "too few for four parts", keep(3), "4 images", "calibration"),
    parted("empty-class", "an empty class", every(lambda _: b"", ".txt"), "pets/t", "cat", "holds no image"),
    parted("class-in-train", "a class without a test", remove("test/dog"), "pets", "one class only (cat)"),
    parted(
        "class-in-test", "a class without training", lambda p: p.images("pets/test/eel"), "pets", "eel only in test/"
    ),
    parted("class-only-train", "a class without a test", lambda p: p.images("pets/train/eel"), "eel only in train/"),
    parted("no-test", "train without test", remove("test"), "pets", "lacks test/"),
    parted("no-train", "test without train", remove("train"), "pets", "lacks train/"),
    bad("link-empty", "a class elsewhere without images", link("eel", "bare"), "pets/eel", "holds no image"),
    bad("wrapped", "a folder around the classes", wrap, "one class only", "pets/all", "give"),
    bad("two-vals", "val and valid", two_vals, "both", "val/", "valid/"),
    bad("val-classes", "another class in val", val_with("eel"), "train/ and val/", "eel only in val/"),
    bad("val-one-class", "one class in val", val_with("eel", keep=False), "pets/val", "one class only"),
    bad("val-empty-class", "a class of val without images", val_empty, "pets/val/cat", "holds no image"),
    bad("unlabelled", "images without classes", lambda p: p.images("pets"), "no class folders", command=f"{ONE}/cat"),
    bad("link-loop", "a link to itself", link("cat/x.png", "pets/cat/x.png"), "pets"),
    bad("link-class-loop", "a class that links to itself", link("eel", "pets/eel"), "pets/eel", "leads nowhere"),
    bad("link-class-broken", "a class that is not there", link("eel", "gone"), "pets/eel", "leads nowhere"),
    bad("link-broken", "a link to nothing", link("cat/x.png", "pets/cat/gone.png"), "pets/cat/x.png"),
    bad("pipe", "a pipe among the images", lambda p: os.mkfifo(p / "pets/cat/x.png"), "pets/cat/x.png", "no file"),
]
FILES = [
    bad("words", "no image", every(lambda _: b"no image"), CAT, "not an image format"),
    bad("zero-bytes", "empty files", every(lambda _: b""), CAT, "not an image format"),
    bad("truncated-png", "cut images", every(lambda content: content[:45]), CAT, "mend or remove"),
    bad("truncated-jpeg", "cut images", jpegs, CAT, ".jpg", "runcated"),
    bad("flipped", "a flipped bit", every(lambda content: content[:50] + b"~" + content[51:]), CAT, "mend or remove"),
    bad("bomb", "10^5 pixels a side", every(lambda _: png(100_000, 100_000)), CAT, "decompression bomb"),
    bad("bomb-narrow", "2 x 10^9 pixels", every(lambda _: png(1, 2**31 - 1)), CAT, "decompression bomb"),
    bad("no-pixels", "0 pixels a side", every(lambda _: png(0, 0)), CAT, "mend or remove"),
    bad("html", "a page in place of an image", every(lambda _: b"<html>404</html>"), CAT, "not an image format"),
    bad("postscript", "a program", every(lambda _: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"), CAT),
    bad("odd-name", "a damaged file with a name that is no text", odd_name, CAT, "caf\\udce9"),
    bad("study-words", "no image, in a study", every(lambda _: b"no image"), CAT, command=STUDY),
    bad(
        "study-test-image", "a damaged test image, in a study", one_test_image, CAT, "cannot read image", command=STUDY
    ),
    bad("study-both", "damaged images in both parts", one_of_each_part, CAT, "cannot read 2 images", command=STUDY),
    bad("study-dry", "the same, asked before", one_test_image, CAT, "mend or remove", command=f"{STUDY} --dry-run"),
    parted("study-test", "a damaged test image, in a study", one_test_image, "pets/test/cat/00.png", command=STUDY),
    bad("study-one-class", "one class, in a study", remove("cat"), "pets", "one class only", command=STUDY),
    parted(
        "study-classes", "classes differ, in a study", lambda p: p.images("pets/test/eel"), "eel only", command=STUDY
    ),
]


def dataset(id: str, why: str, name: str, file: str, content: bytes, *told: str) -> Case:
    """The files of a published data set, all of them with the same content."""

    def arrange(place: Workplace) -> None:
        for one in FILES_OF[name]:
            place.write(f"data/{one}", content)

    return Case(id, why, arrange, f"{TRAIN} --data {name}", (f"'{name}'", file, *told))


FILES_OF = {
    "cifar10": [f"cifar-10-batches-py/{name}" for name in (*(f"data_batch_{n}" for n in range(1, 6)), "batches.meta")],
    "cifar100": [f"cifar-100-python/{name}" for name in ("train", "meta")],
    "svhn": ["train_32x32.mat"],
    "stl10": [f"stl10_binary/{name}" for name in ("train_X.bin", "train_y.bin", "class_names.txt", "fold_indices.txt")],
    "fashion_mnist": [f"FashionMNIST/raw/train-{name}" for name in ("images-idx3-ubyte", "labels-idx1-ubyte")],
}
IDX = struct.pack(">4I", 0x0803, 60_000, 28, 28)
PUBLISHED = [
    dataset("cifar10-empty", "empty files", "cifar10", "data_batch_1", b"", "checksum", "--download"),
    dataset("cifar10-code", "a pickle that runs", "cifar10", "data_batch_1", CODE, "checksum"),
    dataset("cifar100-truncated", "a cut pickle", "cifar100", "train", b"\x80\x02}q\x01(", "checksum"),
    dataset("svhn-words", "no MATLAB file", "svhn", "train_32x32.mat", b"words", "checksum"),
    dataset("stl10-short", "too few bytes", "stl10", "train_X.bin", b"\x01", "checksum"),
    dataset("fashion-truncated", "a cut file", "fashion_mnist", "FashionMNIST/raw", IDX, "fetch it anew"),
    dataset(
        "fashion-words", "no such format", "fashion_mnist", "FashionMNIST/raw", b"words and words", "fetch it anew"
    ),
    dataset("fashion-empty", "empty files", "fashion_mnist", "FashionMNIST/raw", b"", "fetch it anew"),
    Case(
        "fashion-huge",
        "a header that promises 2^64 pixels",
        lambda place: [
            place.write(f"data/{one}", struct.pack(">4I", 0x0803, 2**31, 2**31, 28) + b"\1" * 64)
            for one in FILES_OF["fashion_mnist"]
        ],
        f"{TRAIN} --data fashion_mnist",
        ("'fashion_mnist'", "FashionMNIST/raw"),
    ),
    Case(
        "cifar10-part",
        "a file too few",
        lambda place: [place.write(f"data/{one}", b"x") for one in FILES_OF["cifar10"][:3]],
        f"{TRAIN} --data cifar10",
        ("'cifar10'", "not complete", "data_batch_4", "--download"),
    ),
]


def published(id: str, why: str, name: str, files: dict[str, str], *told: str) -> Case:
    """Files of a published data set of image files."""

    def arrange(place: Workplace) -> None:
        for file, content in files.items():
            place.write(f"data/{file}", content)

    return Case(id, why, arrange, f"{TRAIN} --data {name} --image-size 32 --no-save", (f"'{name}'", *told))


NO_IMAGE = {"food-101/images/readme": "x"}
PUBLISHED_FILES = [
    published("flowers-missing", "nothing is there", "flowers102", {}, "flowers-102", "not complete", "--download"),
    published("food-missing", "lists are missing", "food101", NO_IMAGE, "food-101", "not complete"),
    published("food-no-json", "lists are no JSON", "food101", {**NO_IMAGE, "food-101/meta/train.json": "{"}, "anew"),
    published(
        "food-outside",
        "a list that leads elsewhere",
        "food101",
        {
            **NO_IMAGE,
            **{f"food-101/meta/{one}.json": '{"a": ["../../../x"], "b": ["b/1"]}' for one in ("train", "test")},
        },
        "food-101",
    ),
    published("pets-missing", "nothing is there", "oxford_pets", {}, "oxford-iiit-pet", "not complete"),
    published(
        "pets-words",
        "lists of another form",
        "oxford_pets",
        {"oxford-iiit-pet/images/x": "x", "oxford-iiit-pet/annotations/trainval.txt": "words and words\n"},
        "oxford-iiit-pet",
        "anew",
    ),
    published("eurosat-missing", "nothing is there", "eurosat", {}, "eurosat", "not complete"),
    published("eurosat-empty", "no class", "eurosat", {"eurosat/2750/x": "x"}, "eurosat", "anew"),
    published("gtsrb-missing", "nothing is there", "gtsrb", {}, "gtsrb", "not complete"),
]


def setting(id: str, why: str, value: str, *told: str) -> Case:
    """A setting of images or of their augmentation."""
    return Case(id, why, lambda place: place.images("pets/cat", "pets/dog"), f"{ONE} {value}", told)


SETTINGS = [
    setting("crop-scale", "crops larger than the image", "--crop-scale 2", "--crop-scale", "from 0 to 1", "'2'"),
    setting("jitter", "a negative strength", "--color-jitter=-1", "--color-jitter", "from 0 to 1"),
    setting("rand-augment", "a magnitude that there is not", "--rand-augment 99", "--rand-augment", "from 0 to 30"),
    setting("cutout", "all of the image", "--cutout 1", "--cutout", "below 1"),
    setting("mixup", "no number", "--mixup nan", "--mixup", "nan"),
    setting("class-weights", "no such weights", "--class-weights inverse", "--class-weights", "balanced"),
    setting("white-level", "more than 16 bits", "--white-level 70000", "--white-level", "65535"),
    setting("max-pixels", "no pixels", "--max-pixels 0", "--max-pixels", "from 1"),
    setting("too-large", "images above the limit", "--max-pixels 100", "18 images", "120 pixels", "shrink it"),
    Case(
        "twelve-bits",
        "greys of 12 bits in 16",
        lambda place: [
            Image.fromarray(np.full((12, 10), 900, np.uint16)).save(path)
            for path in (place.images("pets/cat", "pets/dog"), sorted((place / "pets").rglob("*.png")))[1]
        ],
        ONE,
        ("reach 900 of 65535", "white_level to 1023"),
    ),
    Case(
        "study-mixup",
        "a negative alpha, in a study",
        lambda place: place.images("pets/cat", "pets/dog"),
        f"{STUDY} --set backbones.mixup=-0.5",
        ("backbones.mixup", "from 0"),
    ),
]


@each([*FOLDERS, *FILES, *PUBLISHED, *PUBLISHED_FILES, *SETTINGS])
def test_bad_images_are_refused(case: Case, workplace: Workplace, capfd: pytest.CaptureFixture[str]) -> None:
    workplace.refuse(case, capfd)
