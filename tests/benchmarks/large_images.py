"""Anonymous memory of a whole study whose decoded images are larger than memory, and speed of training from the cache.

Used by ``image_folder.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import torch
import yaml
from PIL import Image

from study.data.batches import place
from study.data.loading import load_dataset
from study.data.settings import DataSettings
from study.networks.construction import new_network
from study.networks.settings import NetworkSettings
from study.training.loop import Trainer, fast_precision
from study.training.settings import TrainingSettings

DISTINCT = 64
CLASSES = 4
THIN = """
from torch import nn


def build(*, classes, image_size, channels, width):
    first = nn.Sequential(nn.Conv2d(channels, 8, 16, stride=16), nn.BatchNorm2d(8), nn.ReLU())
    second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)), ["0", "1"]
"""
"""A network that takes little time for an image of any size."""


def fabricate(folder: Path, images: int) -> None:
    """A folder of ``images`` names of a few small JPEG files (hard links): decoded, each is an image of its own."""
    random = np.random.default_rng(0)
    originals = folder / ".originals"
    originals.mkdir(parents=True)
    for number in range(DISTINCT):
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(originals / f"{number}.jpg")
    for name in range(CLASSES):
        (folder / f"class{name}").mkdir()
    for number in range(images):
        (folder / f"class{number % CLASSES}" / f"{number}.jpg").hardlink_to(originals / f"{number % DISTINCT}.jpg")


def largest_memory(gigabytes: float, image_size: int, scratch: Path | None) -> dict[str, float]:
    """A study on fabricated images of so many decoded gigabytes: listing, cache, splits, an epoch of a backbone and one
    of heads, traces, search.

    Returns:
        Kind of process -> the largest anonymous memory of one such process, in GB; and ``seconds``, ``images``.
    """
    images = int(gigabytes * 1e9) // (3 * image_size**2)
    largest: dict[str, float] = {}
    if scratch is not None:
        scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as text:
        folder = Path(text)
        fabricate(folder / "images", images)
        (folder / "thin.py").write_text(THIN)
        one = {"trials": 1, "epochs": 1, "batch_size": 32, "precision": "fp32"}
        study = {
            "name": "large",
            "data": {"name": "image_folder", "folder": str(folder / "images"), "image_size": image_size},
            "backbones": {**one, "backbone": "thin:build"},
            "exits": {**one, "head": "linear"},
            "operating_points": {"trials": 5},
        }
        (folder / "study.yaml").write_text(yaml.safe_dump(study))
        started = time.perf_counter()
        command = [sys.executable, "-m", "study.cli", "run", str(folder / "study.yaml"), "--storage", str(folder)]
        cache = {"PREDICTIVE_EXIT_CACHE": str(folder / "cache")}
        process = subprocess.Popen(
            [*command, "--no-report"],
            env={**os.environ, **cache, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None:
            for kind, memory in anonymous(process.pid):
                largest[kind] = max(largest.get(kind, 0.0), memory)
            time.sleep(0.1)
        if process.returncode:
            raise SystemExit(f"the study ended with exit code {process.returncode}")
        cached = sum(file.stat().st_blocks * 512 for file in (folder / "cache").rglob("images.npy"))
        return {**largest, "seconds": time.perf_counter() - started, "images": images, "cached GB": cached / 1e9}


def anonymous(leader: int) -> Iterator[tuple[str, float]]:
    """The kind and the anonymous memory, in GB, of each process in the session of a command."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError, StopIteration):
            if os.getsid(process.pid) != leader:
                continue
            words = " ".join(process.cmdline())
            decodes, works = "study.data.decoding" in words, words.startswith("ray::") or "default_worker" in words
            kind = "driver" if process.pid == leader else "decoder" if decodes else "worker" if works else "Ray's own"
            status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            yield kind, int(next(line for line in status if line.startswith("RssAnon")).split()[1]) / 1e6


def training_speed(folder: Path, image_size: int, rounds: int) -> dict[str, list[float]]:
    """Images a second in training from the mapped cache and from memory, in alternating epochs of one process."""
    data = load_dataset(DataSettings(name="image_folder", folder=str(folder.absolute()), image_size=image_size), folder)
    if data.train.origin is None:
        raise SystemExit("the cache has no room for the images: set PREDICTIVE_EXIT_CACHE_GB")
    settings = TrainingSettings(mode="original", precision=fast_precision(torch.device("cpu")))
    network = new_network(NetworkSettings(backbone="vgg11", width=0.25), data.info, seed=0)
    labels, device = torch.from_numpy(data.train.labels), torch.device("cpu")
    sources = {"mapped": place(data.train.images, device), "memory": torch.from_numpy(np.array(data.train.images))}
    trainer = Trainer(network, settings, data.info)
    speeds: dict[str, list[float]] = {name: [] for name in sources}
    for epoch in range(rounds + 1):
        for name, images in sources.items() if epoch % 2 else reversed(sources.items()):
            started = time.perf_counter()
            trainer.run_epoch(images, labels, 1)
            if epoch:  # the first round warms up
                speeds[name].append(len(labels) / (time.perf_counter() - started))
    return speeds
