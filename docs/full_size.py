"""Train the full-size networks on one GPU, unattended, the steps of most worth first.

    python docs/full_size.py CIFAR10 WORK           # hours on one GPU; a second start goes on where the first ended
    python docs/full_size.py CIFAR10 WORK --list    # the steps and their commands; starts nothing

CIFAR10 holds CIFAR-10 as ``train/<class>/*`` and ``test/<class>/*``. A step is one or more commands. What they print
goes to ``WORK/logs/<step>.log``. A finished step leaves ``WORK/finished/<step>`` and is left out from then on. A step
that fails is told, and the next step runs. The exit code is 1 where a step failed.

The studies train by the recipe ``RECIPE`` of ``results/reference/ablation/recipes.yaml``. Their packs, with traces, are
in ``WORK/reference``, and the rows of the ablation in ``WORK/rows.csv``.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ablation import FOLDER, merged, recipe_keys
from refresh_reference import SPACE

RECIPE = "airbench"
STUDIES = ("vgg19-cifar10", "resnet34-cifar10")
"""Each begins with the name of its backbone."""
PYTHON = sys.executable
ROOT = Path(__file__).parents[1]
EPOCHS = (40, 20)
"""Of the backbone alone, and of backbone and heads together."""
GPU = ("--set", "resources.gpus_per_trial=1")


@dataclass(frozen=True)
class Step:
    """Commands that run one after the other."""

    name: str
    commands: tuple[tuple[str, ...], ...]


def steps(images: Path, work: Path) -> list[Step]:
    """All steps, those of most worth first."""
    return [
        *(study_step(name, images, work) for name in STUDIES),
        ablation_step("vgg19", images, work),
        ablation_step("resnet34", images, work),
        Step(
            "packing", (benchmark("--trials", "1", "2", "4"), benchmark("--trials", "1", "2", "4", "--width", "0.25"))
        ),
        bundled_step(images, work),
    ]


def study_step(name: str, images: Path, work: Path) -> Step:
    """A study of one network, and its pack; energies are read from the GPU's counter where it has one."""
    run = cli("run", work / f"{name}.yaml", "--folder", images, "--storage", work / "runs", *GPU)
    return Step(name, (run, cli("pack", work / "runs" / name, work / "reference" / name)))


def ablation_step(backbone: str, images: Path, work: Path) -> Step:
    """The recipe beside the base, three seeds, equal epochs."""
    options = ["--width", "1", "--epochs", "20", "10", "--seeds", "0", "1", "2", "--recipes", "base", RECIPE]
    where = ["--storage", str(work / "ablation" / backbone), "--rows", str(work / "rows.csv")]
    script = [PYTHON, str(ROOT / "docs" / "ablation.py"), "--folder", str(images), "--image-size", "32", "--gpu"]
    return Step(f"ablation-{backbone}", ((*script, *options, *where, "--set", f"backbones.backbone={backbone}"),))


def bundled_step(images: Path, work: Path) -> Step:
    """The bundled study of CIFAR-10, whole."""
    data = ("--set", "data.name=image_folder", "--set", "data.image_size=32", "--folder", images)
    return Step("bundled-cifar10", (cli("run", "cifar10", *data, "--storage", work / "runs"),))


def benchmark(*options: str) -> tuple[str, ...]:
    """Images per second of trials that share the GPU."""
    return PYTHON, str(ROOT / "tests" / "benchmarks" / "training_step.py"), "--device", "cuda", *options


def cli(*words: object) -> tuple[str, ...]:
    """A command of the program."""
    return PYTHON, "-m", "study.cli", *map(str, words)


def study_of(name: str) -> dict[str, Any]:
    """The study file of one of ``STUDIES``."""
    keys = recipe_keys(FOLDER / "recipes.yaml", RECIPE).study
    backbone, _, _ = name.partition("-")
    full: dict[str, dict[str, Any]] = {
        "data": {"name": "image_folder", "image_size": 32},
        "backbones": {"backbone": backbone, "width": 1.0, "epochs": EPOCHS[0]},
        "exits": {"epochs": EPOCHS[1]},
        "operating_points": {**SPACE, "statistic": ["mean_logit", "mean_max"], "costs": "measured"},
    }
    return {"name": name, "seed": 0, **merged(keys, full)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps that are not finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, metavar="CIFAR10")
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--list", action="store_true", help="print the commands and start nothing")
    options = parser.parse_args(arguments)
    images, work = options.images.absolute(), options.work.absolute()
    found = steps(images, work)
    if options.list:
        for step in found:
            print(f"# {step.name}", *map(shlex.join, step.commands), sep="\n")
        return 0
    if not (images / "train").is_dir():
        print(f"{images}: there is no folder train/ with a folder for each class", file=sys.stderr)
        return 2
    for name in ("logs", "finished"):
        (work / name).mkdir(parents=True, exist_ok=True)
    for study in STUDIES:
        (work / f"{study}.yaml").write_text(yaml.safe_dump(study_of(study), sort_keys=False), "utf-8")
    failed = [step.name for step in found if not run(step, work)]
    if failed:
        print(f"failed: {', '.join(failed)}; see {work / 'logs'}", file=sys.stderr)
    return 1 if failed else 0


def run(step: Step, work: Path) -> bool:
    """Run a step, unless it is finished; whether all its commands ended well."""
    finished = work / "finished" / step.name
    if finished.exists():
        return True
    started = time.monotonic()
    with (work / "logs" / f"{step.name}.log").open("a", encoding="utf-8") as log:
        well = all(
            subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False).returncode == 0
            for command in step.commands
        )
    minutes = (time.monotonic() - started) / 60
    print(f"{step.name}: {'finished' if well else 'failed'} after {minutes:.1f} minutes", flush=True)
    if well:
        finished.touch()
    return well


if __name__ == "__main__":
    sys.exit(main())
