"""How fast networks train, against a bare loop over synthetic tensors and against the conventional loop.

    python tests/benchmarks/training.py                       # VGG-19 at full width, 32 pixels, 128 images a batch
    python tests/benchmarks/training.py --width 0.25

In each mode (backbone, exit heads on the frozen backbone, both at once) the same network is trained by three loops:

- *bare*: forward, backward and update on one batch of tensors that is on the device already, nothing else. In the
  number format and memory layout that the program picks here.
- *program*: what ``study.training.loop`` runs, from uint8 images: shuffle, augment, normalise, loss, backward, update.
- *conventional*: ``DataLoader`` with workers, PIL transforms for each image, fp32, contiguous maps, the loss read after
  each batch. Heads train as they do when only their optimizer is told so: the backbone in train mode, with gradients.

All are timed in turns in one process, so that the ratios hold even where the seconds do not.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from report import (
    add_common_options,
    add_network_options,
    circumstances,
    interleaved,
    print_circumstances,
    print_table,
    start_quietly,
    synthetic_info,
)
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from study.data.settings import DataInfo
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.settings import HeadSettings, NetworkSettings
from study.training.loop import Trainer, autocast, fast_precision, forbid_tf32, pick_device
from study.training.loss import training_loss
from study.training.settings import Mode, TrainingSettings

MODES: tuple[Mode, ...] = ("original", "exits", "joint")
CLASSES = 10
PREFETCH_SECONDS = 1.0
"""The workers of a DataLoader go on for a while after its last batch was taken."""


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images as a conventional data set has them: one at a time, through PIL."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], info: DataInfo) -> None:
        self.images, self.labels = np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(info.image_size, padding=info.crop_padding),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(info.mean, info.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


class Conventional:
    """The usual loop. Its workers live on from epoch to epoch."""

    def __init__(
        self,
        network: MultiExitNetwork,
        pictures: Pictures,
        settings: TrainingSettings,
        device: torch.device,
        *,
        workers: int,
    ) -> None:
        self.network, self.settings, self.device = network.to(device), settings, device
        network.requires_grad_(True).train()
        trained = network.heads if settings.mode == "exits" else network
        self.optimizer = torch.optim.Adam(trained.parameters(), lr=settings.learning_rate)
        self.batches = self._endless(
            DataLoader(
                pictures,
                batch_size=settings.batch_size,
                shuffle=True,
                num_workers=workers,
                persistent_workers=workers > 0,
                pin_memory=device.type == "cuda",
            )
        )

    @staticmethod
    def _endless(loader: DataLoader[Any]) -> Iterator[Any]:
        while True:
            yield from loader

    def run(self, batches: int) -> float:
        """Train on so many batches; returns the sum of their losses."""
        torch.backends.cudnn.allow_tf32 = True  # torch's default, which the program switches off
        total = 0.0
        for _ in range(batches):
            images, labels = next(self.batches)
            images, labels = images.to(self.device), labels.to(self.device)
            if self.settings.mode == "original":
                loss = torch.nn.functional.cross_entropy(self.network.classify(images), labels)
            else:
                logits = self.network(images)
                watched = logits[:, :-1] if self.settings.mode == "exits" else logits
                target = labels[:, None].expand(-1, watched.shape[1])
                loss = torch.nn.functional.cross_entropy(watched.transpose(1, 2), target, reduction="sum") / len(labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        torch.backends.cudnn.allow_tf32 = False
        return total


def bare_loop(trainer: Trainer, images: Tensor, labels: Tensor, batches: int) -> None:
    """Forward, backward, update: what no loop can do without."""
    trainer.set_mode()
    for _ in range(batches):
        with autocast(images.device, trainer.settings.precision):
            loss = training_loss(trainer.network, images, labels, trainer.settings)
        trainer.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trainer.optimizer.step()
    if images.device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Print images per second of each loop in each mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser, quick="a smoke run: VGG-11, an eighth of its width")
    add_network_options(parser)
    parser.add_argument("--workers", type=int, default=2, help="of the conventional loop's DataLoader")
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    options = parser.parse_args()
    if options.quick:
        options.backbone, options.width, options.batch_size = "vgg11", 0.125, 32
    start_quietly(options)
    device = pick_device(options.device)
    forbid_tf32()
    facts = circumstances() | {"device": str(device), "backbone": options.backbone, "width": options.width}
    print_circumstances(facts)
    generator = np.random.default_rng(0)
    count = options.batch_size * options.batches
    size = options.image_size
    images = generator.integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    labels = generator.integers(0, CLASSES, count)
    info = synthetic_info(size, CLASSES)
    settings = NetworkSettings(
        backbone=options.backbone,
        width=options.width,
        head=HeadSettings(kind=options.head, conv_channels=options.conv_channels),
    )
    runs: dict[str, Callable[[], object]] = {}
    for mode in options.modes:
        training = TrainingSettings(mode=mode, batch_size=options.batch_size, precision=fast_precision(device))
        network = build_network(settings, classes=CLASSES, image_size=size, channels=3)
        conventional = Conventional(
            copy.deepcopy(network), Pictures(images, labels, info), training, device, workers=options.workers
        )
        trainer = Trainer(network.to(device), training, info)
        on_device = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
        floats = torch.randn(options.batch_size, 3, size, size, device=device).contiguous(
            memory_format=torch.channels_last
        )
        target = on_device[1][: options.batch_size]
        runs[f"{mode}, bare"] = partial(bare_loop, trainer, floats, target, options.batches)
        runs[f"{mode}, program"] = partial(trainer.run_epoch, *on_device, 1)
        runs[f"{mode}, conventional"] = partial(conventional.run, options.batches)
    seconds = interleaved(runs, repeats=options.repeats, pause=PREFETCH_SECONDS)
    rows = []
    for mode in options.modes:
        bare, program, usual = (seconds[f"{mode}, {loop}"] for loop in ("bare", "program", "conventional"))
        rows.append(
            {
                "mode": mode,
                "bare, images/s": count / bare.median,
                "program": count / program.median,
                "conventional": count / usual.median,
                "program / bare": bare.median / program.median,
                "program / conventional": usual.median / program.median,
            }
        )
    print_table(f"training, {options.batch_size} images a batch, {options.head} heads", rows)
    if options.json:
        print(json.dumps({**facts, "rows": rows}))


if __name__ == "__main__":
    main()
