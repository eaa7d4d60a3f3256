"""What happens to training images in each epoch: crops and mirroring by default, more where settings ask for more.

The default augmentation is one operation on the whole batch. Those of torchvision draw one set of random numbers for
all images of a call; they are called for each image, on the device. Mixing needs two images and is done on the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from search_spaces.settings import TrainingFields
from study.data.batches import augment
from study.data.settings import DataInfo

_OPERATIONS = 2
"""Of RandAugment, on each image (Cubuk et al., CVPR workshops 2020)."""


class Augmentation:
    """The augmentation of a training run.

    Random numbers come from the generator of the epoch and, in torchvision, from torch's global one, which the training
    seeds for each epoch.

    Args:
        settings: of the training.
        info: of the images.
    """

    def __init__(self, settings: TrainingFields, info: DataInfo) -> None:
        self.info, self._settings = info, settings
        self._alternates = info.flip and settings.mirroring == "alternating"
        self._each = _transforms(settings, info)
        self._mix = _mixing(settings.mixup, len(info.class_names)) if settings.mixup else None

    def mirrored(self, count: int, seed: int, epoch: int) -> Tensor | None:
        """``[N]`` bool: which of N training images are mirrored in an epoch; None: it is drawn for each batch.

        With ``mirroring: alternating``, a half that the seed draws is mirrored in odd epochs, and the other half in
        even epochs: two epochs show both sides of each image (Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single
        GPU", arXiv 2404.00498).
        """
        if not self._alternates:
            return None
        half = torch.randint(0, 2, (count,), generator=torch.Generator().manual_seed(seed))
        return (half + epoch) % 2 == 1

    def pixels(self, images: Tensor, generator: torch.Generator, mirrored: Tensor | None = None) -> Tensor:
        """uint8 ``[B, C, H, W]`` -> the same shape, type and device; ``mirrored`` ``[B]`` is of :meth:`mirrored`."""
        settings = self._settings
        if settings.crop_scale == 0:
            padding, fill = settings.crop_padding, settings.crop_fill
            images = augment(images, self.info, generator, padding=padding, fill=fill, mirrored=mirrored)
        elif mirrored is not None:
            images = torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3), images)
        if self._each is None:
            return images
        return torch.stack([self._each(image) for image in images])

    def mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Float images ``[B, C, H, W]`` and labels ``[B]``; of mixed images the shares of classes ``[B, classes]``."""
        if self._mix is None:
            return images, labels
        images, shares = self._mix(images, labels)
        return images, shares


def _transforms(settings: TrainingFields, info: DataInfo) -> Callable[[Tensor], Tensor] | None:
    """What torchvision does to each image; None where the settings ask for nothing."""
    if not (settings.crop_scale or settings.color_jitter or settings.rand_augment or settings.cutout):
        return None
    from torchvision.transforms import v2  # here: the import takes a second, and most trainings need none of it

    steps: list[Any] = []
    if settings.crop_scale:
        steps.append(v2.RandomResizedCrop(info.image_size, scale=(settings.crop_scale, 1.0), antialias=True))
        steps += [v2.RandomHorizontalFlip()] if info.flip and settings.mirroring == "random" else []
    if settings.rand_augment:
        steps.append(v2.RandAugment(num_ops=_OPERATIONS, magnitude=settings.rand_augment))
    if settings.color_jitter:
        steps.append(v2.ColorJitter(*(settings.color_jitter,) * 3))
    if settings.cutout:
        steps.append(v2.RandomErasing(p=1.0, scale=(settings.cutout**2,) * 2, ratio=(1.0, 1.0)))
    chain: Callable[[Tensor], Tensor] = v2.Compose(steps)
    return chain


def _mixing(alpha: float, classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    from torchvision.transforms import v2

    mixing: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = v2.MixUp(alpha=alpha, num_classes=classes)
    return mixing
