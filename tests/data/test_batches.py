"""Batched augmentation and normalisation, and where images lie."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from study.data.batches import augment, images_at_once, normalize, place, to_device
from study.data.loading import load_dataset
from study.data.settings import DataInfo, DataSettings, ImageSet

NOWHERE = Path("nowhere")  # digits need no files


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


def test_crops_of_reflected_images_equal_their_slow_twin() -> None:
    images, info = random_batch(64), info_of(flip=False)
    for padding in (2, 20):  # 20 pixels turn round twice
        found = augment(images, info, torch.Generator().manual_seed(4), padding=padding, fill="reflected")
        offsets = torch.randint(0, 2 * padding + 1, (2, 64, 1), generator=torch.Generator().manual_seed(4)).flatten(1)
        for image, own, down, right in zip(images, found, *offsets.tolist(), strict=True):
            padded = np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
            assert np.array_equal(own.numpy(), padded[:, down : down + 16, right : right + 16])


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
    assert in_host_memory.data_ptr() == images.ctypes.data, "no copy of what others may share"
    assert torch.equal(to_device(in_host_memory, gpu), placed)


def test_image_set_digest_names_its_images() -> None:
    images, labels = random_batch(3).numpy(), np.arange(3)
    digest = ImageSet(images=images, labels=labels).digest
    assert ImageSet(images=images.copy(), labels=labels).digest == digest
    assert ImageSet(images=images[::-1], labels=labels).digest != digest
    assert ImageSet(images=images, labels=labels[::-1]).digest != digest


def test_large_images_are_evaluated_in_smaller_batches():
    assert images_at_once(torch.zeros(1, 3, 32, 32), 256) == 256
    assert images_at_once(torch.zeros(1, 3, 512, 512, dtype=torch.uint8), 256) == 42
    assert images_at_once(torch.zeros(1, 1, 1, 1).expand(1, 3, 8192, 8192), 256) == 1
