"""Small studies of five of torchvision's networks, from image files to an exported model.

    python docs/backbone_studies.py CIFAR10 WORK [NETWORK ...]   # CPU hours: see the table
    python docs/build_results.py backbones.md                    # then the table of docs/backbones.md

CIFAR10 holds CIFAR-10 as ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``. Each study runs, exports its recommended
point and classifies the test images with the exported model, all through the command line, in WORK. A finished study
is a row of ``results/reference/backbones/studies.csv``; a study with a row there is left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from torchvision import models

from results.intervals import wilson_interval
from results.parts import rows_of
from study import Study
from study.costs.flops import count_work
from study.networks.multi_exit import build_network
from study.networks.registry import native_image_size
from study.networks.settings import HeadSettings, NetworkSettings

REFERENCE = Path(__file__).parents[1] / "results" / "reference"
TABLE = REFERENCE / "backbones" / "studies.csv"
CLASSES = ("airplane", "automobile", "frog", "horse")
TRAIN, TEST, SIDE = 400, 250, 64
"""Image files of a class in the training and in the test part, and pixels a side in the networks."""


@dataclass(frozen=True)
class Backbone:
    """A network, and what its study sets."""

    model: str
    head: str
    learning_rate: float
    epochs: tuple[int, int] = (8, 4)
    """Of the backbone alone, and of backbone and heads together."""


BACKBONES = (
    Backbone("mobilenet_v3_small", "conv", 0.002),
    Backbone("efficientnet_b0", "conv", 0.002),
    Backbone("resnet50", "conv", 0.001),
    Backbone("convnext_tiny", "conv", 0.001),
    Backbone("vit_b_16", "linear", 0.0003, epochs=(4, 2)),  # a head reads one pixel, the class token
)


def study_of(backbone: Backbone, images: Path) -> dict[str, Any]:
    """The study file."""
    training = {"batch_size": 32, "optimizer": "adamw", "weight_decay": 0.02, "warmup_epochs": 1}
    return {
        "name": backbone.model,
        "data": {
            "name": "image_folder",
            "folder": str(images),
            "image_size": SIDE,
            "calibration": 0.1,
            "validation": 0.2,
        },
        "backbones": {
            "backbone": f"torchvision:{backbone.model}",
            "epochs": backbone.epochs[0],
            "learning_rate": backbone.learning_rate,
            **training,
        },
        "exits": {
            "mode": "joint",
            "epochs": backbone.epochs[1],
            "head": backbone.head,
            "conv_channels": 32,
            "conv_side": 4,
            "learning_rate": backbone.learning_rate / 2,
            **training,
        },
        "operating_points": {
            "search": "exact",
            "policy": ["predictive", "hierarchical", "static", "head_thresholds", "optimal_stopping"],
            "criterion": ["logit", "margin"],
            "statistic": ["mean_logit", "mean_max"],
        },
    }


def link_images(source: Path, images: Path) -> None:
    """Make the folder of the studies: links to the first files of each class."""
    for part, count in (("train", TRAIN), ("test", TEST)):
        for name in CLASSES:
            files = sorted((source / part / name).iterdir())[:count]
            if len(files) < count:
                raise SystemExit(f"{source / part / name} holds {len(files)} files, not {count}")
            folder = images / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for file in files:
                if not (folder / file.name).exists():
                    (folder / file.name).symlink_to(file.resolve())


def native_gigaflops(model: str) -> float:
    """10^9 FLOPs of the whole network with 1,000 classes on an image of its native size."""
    settings = NetworkSettings(backbone=f"torchvision:{model}", head=HeadSettings(kind="linear"))
    with torch.device("meta"):
        network = build_network(
            settings, classes=1000, image_size=native_image_size(settings.backbone) or 0, channels=3
        )
    return float(count_work(network).segment_flops.sum() / 1e9)


def published_gigaflops(model: str) -> float:
    """The same as torchvision publishes it; torchvision counts a multiply-add as one operation."""
    return float(2 * models.get_model_weights(model).DEFAULT.meta["_ops"])


def command(*arguments: object) -> str:
    """Run a command of the program; what it prints on stdout."""
    words = [sys.executable, "-m", "study.cli", *map(str, arguments)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def run(backbone: Backbone, images: Path, work: Path) -> dict[str, Any]:
    """Run the study of a backbone, export its point and classify the test images; the row of the table."""
    file, folder, exported = work / f"{backbone.model}.yaml", work / "runs" / backbone.model, work / backbone.model
    file.write_text(yaml.safe_dump(study_of(backbone, images), sort_keys=False), "utf-8")
    command("run", file, "--storage", work / "runs", "--local", "--no-report")
    command("export", folder, "--output", exported)
    lines = [json.loads(line) for line in command("predict", exported, images / "test", "--json").splitlines()]
    answers, summary = [line for line in lines if "image" in line], lines[-1]["summary"]
    right = sum(Path(line["image"]).parent.name == line["class"] for line in answers)
    study = Study.open(folder)
    points = study.front()
    (point,) = rows_of(points[points["recommended"]])
    costs = study.costs[study.costs["trial_id"] == point["trial_id"]]
    segments = costs[(costs["part"] == "segment") & (costs["precision"] == "fp32")]
    return {
        "network": backbone.model,
        "head": backbone.head,
        "epochs": sum(backbone.epochs),
        "image_side": SIDE,
        "exits": len(segments) - 1,
        "parameters": int(segments["parameters"].sum()),
        "gigaflops": segments["flops"].sum() / 1e9,
        "native_side": native_image_size(f"torchvision:{backbone.model}"),
        "native_gigaflops": native_gigaflops(backbone.model),
        "published_gigaflops": published_gigaflops(backbone.model),
        "test_images": int(point["test_samples"]),
        "test_classic_accuracy": point["test_classic_accuracy"],
        "test_accuracy": point["test_accuracy"],
        "test_flops_share": point["test_flops"] / (segments["flops"].sum()),
        "policy": point["policy"],
        "exported_images": summary["images"],
        "exported_accuracy": right / len(answers),
        "exported_flops_share": summary["flops_share_of_classic"],
    }


def backbone_studies(folder: str) -> str:
    """The table of docs/backbones.md."""
    lines = [
        "| network | exits | parameters | GFLOPs at native size | torchvision's | epochs | whole network, test | "
        "recommended point, test | share of FLOPs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows_of(pd.read_csv(REFERENCE / folder / "studies.csv")):
        images = int(row["test_images"])
        whole, point = (_with_interval(row[name], images) for name in ("test_classic_accuracy", "test_accuracy"))
        lines.append(
            f"| `{row['network']}` | {row['exits']} | {row['parameters'] / 1e6:.1f} M | {row['native_gigaflops']:.3g} "
            f"| {row['published_gigaflops']:.3g} | {row['epochs']} | {whole} | {point} | "
            f"{row['test_flops_share'] * 100:.0f} % |"
        )
    return "\n".join(lines)


def _with_interval(share: float, images: int) -> str:
    low, high = wilson_interval(share, images)
    return f"{share * 100:.1f} % ({low * 100:.1f} to {high * 100:.1f})"


def main() -> None:
    """Run the studies that have no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar10", type=Path, metavar="CIFAR10")
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("names", nargs="*", metavar="NETWORK", help="default: all five")
    options = parser.parse_args()
    images = options.work.resolve() / "images"
    link_images(options.cifar10, images)
    names = [backbone.model for backbone in BACKBONES]
    for backbone in BACKBONES:
        if backbone.model in (options.names or names) and backbone.model not in _finished():
            row = run(backbone, images, options.work.resolve())
            rows = {**_finished(), backbone.model: row}
            TABLE.parent.mkdir(exist_ok=True)
            ordered = pd.DataFrame([rows[name] for name in names if name in rows])
            ordered.to_csv(TABLE, index=False, float_format="%.6g")


def _finished() -> dict[str, dict[str, Any]]:
    """Network -> its row in the table."""
    rows = rows_of(pd.read_csv(TABLE)) if TABLE.exists() else []
    return {str(row["network"]): dict(row) for row in rows}


if __name__ == "__main__":
    main()
