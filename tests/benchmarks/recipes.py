"""How long recipes of training take against the base of the ablation, on the same batches, in turns.

    python tests/benchmarks/recipes.py --threads 1
    python tests/benchmarks/recipes.py --recipes airbench muon --set backbones.backbone=resnet34

The recipes are those of ``docs/ablation.py``. The backbone alone is trained for some batches of synthetic images, and
then backbone and heads are. A ratio above 1 is the share of time that a recipe needs more than the base.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from report import (
    add_common_options,
    circumstances,
    interleaved,
    print_circumstances,
    print_table,
    start_quietly,
    synthetic_info,
)

from study.networks.multi_exit import build_network
from study.training.loop import Trainer, forbid_tf32, pick_device

sys.path.append(str(Path(__file__).parents[2] / "docs"))
CLASSES = 10
BASE = "base"


def main() -> None:
    """Print the seconds of a batch of each recipe, and their ratios to the base."""
    import ablation

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser, quick="a smoke run: VGG-11, an eighth of its width")
    parser.add_argument("--recipes", nargs="+", default=["airbench"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=8, help="of one timed run")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    changes = ["backbones.backbone=vgg11", "backbones.width=0.125"] if options.quick else options.set
    start_quietly(options)
    device = pick_device(options.device)
    forbid_tf32()
    facts = circumstances() | {"device": str(device), "changes": " ".join(changes)}
    print_circumstances(facts)
    recipes = [BASE, *options.recipes]
    words = ["--recipes", *recipes, *(word for change in changes for word in ("--set", change))]
    asked = ablation.parsed([*words, "--threads", str(torch.get_num_threads())])
    info = synthetic_info(options.image_size, CLASSES)
    runs: dict[str, Callable[[], object]] = {}
    for recipe in recipes:
        run = ablation.make_run(recipe, 0, asked)
        backbone = run.backbone("synthetic")
        for part, plan in (("backbone", backbone), ("exits", run.trials.exits_on(backbone)[0])):
            network = build_network(plan.network, classes=CLASSES, image_size=options.image_size, channels=3)
            trainer = Trainer(network.to(device), plan.training, info)
            shape = (options.batches * plan.training.batch_size, 3, options.image_size, options.image_size)
            random = np.random.default_rng(0)
            images = torch.from_numpy(random.integers(0, 256, shape, dtype=np.uint8)).to(device)
            labels = torch.from_numpy(random.integers(0, CLASSES, shape[0])).to(device)
            runs[f"{part}, {recipe}"] = partial(trainer.run_epoch, images, labels, 1)
    seconds = interleaved(runs, repeats=options.repeats)
    rows = [
        {
            "recipe": name,
            "ms a batch": 1e3 * spread.median / options.batches,
            "against the base": spread.median / seconds[f"{name.partition(', ')[0]}, {BASE}"].median,
        }
        for name, spread in seconds.items()
    ]
    print_table("Seconds of training", rows)
    if options.json:
        print(json.dumps({**facts, "rows": rows}))


if __name__ == "__main__":
    main()
