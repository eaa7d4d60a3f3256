"""Settings, splits, and the digits that need no files."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.laws import examples
from support.refusals import one_line

from study.data.array_sources import read_digits
from study.data.loading import load_dataset, load_test_set
from study.data.pixels import mean_and_std
from study.data.settings import DataInfo, DataSettings, resolve
from study.data.splits import apportion, cut
from study.errors import UserError

NOWHERE = Path("nowhere")  # digits need no files


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
        ({"calibration": 0.4, "validation": 0.4, "certification": 0.2}, "certification 0.2 leave nothing"),
        ({"certification": -0.1}, "certification"),
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


@examples(150)
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


@examples(150)
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


@pytest.mark.parametrize("limit", [None, 90])
def test_a_certification_split_takes_images_from_the_train_split_alone(limit: int | None) -> None:
    labels = labels_of([60, 30, 10])

    def cut_with(share: float) -> dict[str, np.ndarray]:
        return cut(labels, "abc", calibration=0.1, validation=0.2, certification=share, limit=limit, seed=3)

    without, with_it = cut_with(0.0), cut_with(0.2)
    assert "certification" not in without
    for name in ("calibration", "validation"):
        assert np.array_equal(without[name], with_it[name])
    assert np.array_equal(np.union1d(with_it["train"], with_it["certification"]), without["train"])
    images = limit or 100
    assert len(with_it["certification"]) == images / 5
    counts = np.bincount(labels[with_it["certification"]])
    assert (np.abs(counts - images / 500 * np.array([60, 30, 10])) <= 1).all()
    assert np.array_equal(cut_with(0.2)["certification"], with_it["certification"])


def test_a_certification_split_without_room_is_refused() -> None:
    sizes = labels_of([40, 3])
    with pytest.raises(UserError) as error:
        cut(sizes, ("cat", "dog"), calibration=0.1, validation=0.1, certification=0.1, limit=None, seed=0)
    assert "'dog' has 3 images to train, calibrate, validate and certify on but needs 4" in one_line(error)
    with pytest.raises(UserError, match=r"certification share 0.001 of 43 images"):
        cut(sizes, ("cat", "dog"), calibration=0.1, validation=0.1, certification=0.001, limit=None, seed=0)


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


def test_digits_are_those_that_scikit_learn_loads() -> None:
    from sklearn.datasets import load_digits  # here: the import takes seconds

    levels, labels = load_digits(return_X_y=True)
    raw, found = read_digits()
    assert np.array_equal(raw.reshape(len(raw), -1), np.floor(levels * 255 / 16 + 0.5))
    assert np.array_equal(found, labels)


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
        {"certification": 0.1},
    ]
    others = {load_dataset(replace(plain, **change), NOWHERE).info.digest for change in changes}
    assert len(others | {digest}) == len(changes) + 1


def test_info_survives_json() -> None:
    info = load_dataset(DataSettings(name="digits", limit=100), NOWHERE).info
    assert DataInfo.from_json(json.loads(json.dumps(asdict(info)))) == info
    assert DataInfo(**asdict(info)) == info
