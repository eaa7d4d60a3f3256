"""Accuracy on few images: trained from scratch, and from weights that were trained on another data set.

A VGG-11 x 0.25 is trained on a folder of many images, then on few images of another folder, by the command ``train``.
Each seed draws its own few images. The figures are accuracies on the validation split of the second folder, which holds
the images that are not trained on.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

STARTS = {
    "scratch": [],
    "initial": ["--initial", "SOURCE"],
    "initial, backbone_rate 0.3": ["--initial", "SOURCE", "--backbone-rate", "0.3"],
}


def main() -> None:
    """Print mean and deviation over the seeds for each start; write the single values as CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder of many images, with train/<class>/ and test/<class>/")
    parser.add_argument("target", type=Path, help="folder of other images")
    parser.add_argument("--source-images", type=int, default=10000)
    parser.add_argument("--source-epochs", type=int, default=6)
    parser.add_argument("--limit", type=int, default=1250, help="images of the target, of which 30 %% are trained on")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="CSV file of the single values")
    options = parser.parse_args()
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "source")
        source = ["--folder", str(options.source), "--limit", str(options.source_images), "--learning-rate", "0.002"]
        print(f"source: {train(*source, '--epochs', str(options.source_epochs), '--output', weights):.4f}")
        for seed in range(options.seeds):
            target = ["--folder", str(options.target), "--limit", str(options.limit), "--validation", "0.6"]
            target += ["--epochs", str(options.epochs), "--batch-size", "32", "--seed", str(seed), "--no-save"]
            for start, words in STARTS.items():
                accuracy = train(*target, *(weights if word == "SOURCE" else word for word in words))
                found.append({"start": start, "seed": seed, "validation_accuracy": round(accuracy, 4)})
                print(f"seed {seed}, {start}: {accuracy:.4f}", flush=True)
    for start in STARTS:
        values = [float(str(row["validation_accuracy"])) for row in found if row["start"] == start]
        spread = f" (deviation {stdev(values):.4f})" if len(values) > 1 else ""
        print(f"{start:<28}{mean(values):.4f}{spread}")
    if options.output:
        with options.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(found[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)


def train(*words: str) -> float:
    """The best validation accuracy of the classifier, of one run of ``train``."""
    command = [sys.executable, "-m", "study.cli", "train", "--backbone", "vgg11", "--width", "0.25", "--json"]
    command += ["--data", "image_folder", "--image-size", "32", "--precision", "fp32", "--device", "cpu", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout)["classifier_accuracy"])


if __name__ == "__main__":
    main()
