"""What the settings of augmentation do to training images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from study.data.augmentation import Augmentation
from study.data.batches import augment
from study.data.settings import DataInfo
from study.training.settings import TrainingSettings

ASKED: dict[str, Any] = {"crop_scale": 0.3, "color_jitter": 0.4, "rand_augment": 9, "cutout": 0.5}


def info(channels: int = 3, *, flip: bool = True) -> DataInfo:
    return DataInfo(
        name="noise",
        image_size=16,
        channels=channels,
        class_names=("a", "b", "c"),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        flip=flip,
        crop_padding=2,
        digest="d",
        settings={},
    )


def images(channels: int = 3) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (6, channels, 16, 16), generator=random, dtype=torch.uint8)


def augmented(pixels: Tensor, about: DataInfo, seed: int = 1, **asked: Any) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = TrainingSettings(mode="original", **asked)
        return Augmentation(settings, about).pixels(pixels, torch.Generator().manual_seed(seed))


def test_without_settings_it_is_the_crop_and_the_mirror_of_before() -> None:
    expected = augment(images(), info(), torch.Generator().manual_seed(1))
    assert torch.equal(augmented(images(), info()), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [*ASKED, "all"])
def test_each_setting_changes_images_and_a_seed_repeats_the_change(name: str, channels: int) -> None:
    asked = ASKED if name == "all" else {name: ASKED[name]}
    about = info(channels)
    first = augmented(images(channels), about, **asked)
    assert first.shape == (6, channels, 16, 16) and first.dtype == torch.uint8
    assert torch.equal(first, augmented(images(channels), about, **asked))
    assert not torch.equal(first, augmented(images(channels), about, 2, **asked))
    assert not torch.equal(first, augmented(images(channels), about))


def test_each_image_gets_its_own_random_numbers() -> None:
    alike = images()[:1].expand(6, -1, -1, -1)
    for name, value in ASKED.items():
        changed = augmented(alike, info(), **{name: value})
        assert len({image.numpy().tobytes() for image in changed}) > 3, name


def test_cutout_blackens_a_square_of_its_side() -> None:
    bright = torch.full((6, 3, 16, 16), 255, dtype=torch.uint8)
    cut = augmented(bright, info(flip=False), crop_scale=1.0, cutout=0.5)
    assert ((cut == 0).sum(dim=(1, 2, 3)) == 3 * 8 * 8).all()


def test_crops_take_the_place_of_padding() -> None:
    bright = torch.full((64, 3, 16, 16), 255, dtype=torch.uint8)
    assert (augmented(bright, info()) == 0).any() and (augmented(bright, info(), crop_scale=0.2) == 255).all()


@pytest.mark.parametrize("crop_scale", [0.0, 1.0])
def test_an_image_is_mirrored_in_every_other_epoch(crop_scale: float) -> None:
    settings = TrainingSettings(mode="original", mirroring="alternating", crop_padding=0, crop_scale=crop_scale)
    augmentation = Augmentation(settings, info())
    first, second, third = (augmentation.mirrored(200, 5, epoch) for epoch in (1, 2, 3))
    assert first is not None and second is not None and third is not None
    assert torch.equal(first, ~second) and torch.equal(first, third) and 70 < first.sum() < 130
    flips = torch.tensor([True, False, True, False, False, True])
    if crop_scale == 0:
        found = augmentation.pixels(images(), torch.Generator(), flips)
        assert torch.equal(found, torch.where(flips[:, None, None, None], images().flip(3), images()))
    rows = torch.arange(16, dtype=torch.uint8).repeat(6, 3, 16, 1) * 16  # bright at the right, unless mirrored
    with torch.random.fork_rng():
        found = augmentation.pixels(rows, torch.Generator(), flips).float().mean(dim=(1, 2))
    assert ((found[:, 0] > found[:, -1]) == flips).all()
    assert Augmentation(settings, info(flip=False)).mirrored(200, 5, 1) is None


def test_mixed_images_have_shares_of_classes() -> None:
    settings = TrainingSettings(mode="original", mixup=0.4)
    pixels, labels = images().float(), torch.tensor([0, 1, 2, 0, 1, 2])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mixed, shares = Augmentation(settings, info()).mixed(pixels, labels)
    assert mixed.shape == pixels.shape and shares.shape == (6, 3)
    assert torch.allclose(shares.sum(dim=1), torch.ones(6)) and ((shares > 0).sum(dim=1) == 2).all()
    largest = shares.gather(1, labels[:, None])
    expected = largest[:, :, None, None] * pixels + (1 - largest)[:, :, None, None] * pixels.roll(1, 0)
    assert torch.allclose(mixed, expected, atol=1e-3)
    plain = Augmentation(TrainingSettings(mode="original"), info()).mixed(pixels, labels)
    assert plain[0] is pixels and plain[1] is labels
