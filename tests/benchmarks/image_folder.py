"""First read and second start of an image folder, beside torchvision's ImageFolder in a DataLoader with two workers.

Rounds alternate. Each start is a process of its own, as a study is. The pages of the files are read once before.

``--throughput`` trains VGG-11 x 0.25 from the mapped cache and from memory instead, in alternating epochs of one
process. ``--large GB`` needs no folder: a whole study on fabricated images of so many decoded gigabytes, and the
largest anonymous memory of each kind of process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from large_images import largest_memory, training_speed

_OURS = """
from study.data.loading import load_dataset
from study.data.settings import DataSettings
from pathlib import Path
import resource, sys, time
def cpu():
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
settings = DataSettings(name="image_folder", folder=sys.argv[1], image_size=int(sys.argv[2]))
started, used = time.perf_counter(), cpu()
data = load_dataset(settings, Path("."))
images = len(data.train) + len(data.calibration) + len(data.validation)
anonymous = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
print(images, time.perf_counter() - started, cpu() - used, anonymous / 1e6)
"""
_TORCHVISION = """
import resource, sys, time
from pathlib import Path
import torch
from torchvision import datasets
from torchvision.transforms import v2
def cpu():
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
def main():
    size = int(sys.argv[2])
    started, used = time.perf_counter(), cpu()
    how = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor()])
    folder = datasets.ImageFolder(Path(sys.argv[1]) / "train", transform=how)
    loader = torch.utils.data.DataLoader(folder, batch_size=256, num_workers=2)
    images = torch.cat([pixels for pixels, _ in loader])
    del loader
    anonymous = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
    print(len(images), time.perf_counter() - started, cpu() - used, anonymous / 1e6)
main()
"""


def main() -> None:
    """Print the median of the rounds, and the ratio to torchvision's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="with train/<class>/ and test/<class>/")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--throughput", action="store_true", help="train from the mapped cache and from memory")
    parser.add_argument("--large", type=float, metavar="GB", help="memory of a study on so many decoded gigabytes")
    parser.add_argument("--scratch", type=Path, help="folder for the files of --large, on a disk")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end as well")
    options = parser.parse_args()
    if options.large:
        found = largest_memory(options.large, options.image_size, options.scratch)
        for name, value in found.items():
            print(f"{name:<14}{value:>10.2f}{'' if name in ('seconds', 'images', 'cached GB') else ' GB anonymous'}")
        if options.json:
            print(json.dumps(found))
        return
    if options.folder is None:
        parser.error("give a folder, or --large")
    if options.throughput:
        print_speeds(options)
        return
    warm(options.folder)
    figures: dict[str, list[list[float]]] = {"first read": [], "second start": [], "torchvision": []}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as cache:
            for name in ("first read", "second start"):
                figures[name].append(start(_OURS, options, cache))
            figures["torchvision"].append(start(_TORCHVISION, options, cache))
    rows = {name: [median(values) for values in zip(*runs, strict=True)] for name, runs in figures.items()}
    theirs = rows["torchvision"]
    print(f"{'':<14}{'images':>8}{'s':>8}{'CPU s':>8}{'anonymous GB':>14}{'s, ratio':>10}{'CPU s, ratio':>14}")
    for name, (images, seconds, used, anonymous) in rows.items():
        ratios = f"{seconds / theirs[1]:>10.2f}{used / theirs[2]:>14.2f}"
        print(f"{name:<14}{images:>8.0f}{seconds:>8.2f}{used:>8.2f}{anonymous:>14.2f}{ratios}")
    if options.json:
        print(json.dumps(rows))


def print_speeds(options: Any) -> None:
    """Print images a second of each source of images, and the median of the ratios of the rounds."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["PREDICTIVE_EXIT_CACHE"] = cache
        speeds = training_speed(options.folder, options.image_size, options.repeats)
    ratios = [mapped / memory for mapped, memory in zip(speeds["mapped"], speeds["memory"], strict=True)]
    print(f"mapped {median(speeds['mapped']):.0f} images/s, memory {median(speeds['memory']):.0f} images/s")
    print(f"ratio {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    if options.json:
        print(json.dumps({**speeds, "ratios": ratios}))


def warm(folder: Path) -> None:
    """Read all files once."""
    for path in (folder / "train").rglob("*"):
        if path.is_file():
            path.read_bytes()


def start(code: str, options: Any, cache: str) -> list[float]:
    """Images, seconds, CPU seconds with all child processes, and GB of anonymous memory, of a new process."""
    done = subprocess.run(
        [sys.executable, "-c", code, str(options.folder.absolute()), str(options.image_size)],
        env={**os.environ, "PREDICTIVE_EXIT_CACHE": cache},
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(text) for text in done.stdout.split()]


if __name__ == "__main__":
    main()
