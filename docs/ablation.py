"""Train one network by each of some recipes, and add what it needs on test to ``results/reference/ablation/rows.csv``.

    python docs/ablation.py --data digits --image-size 32 --epochs 2 1 --recipes base equilibrium
    python docs/ablation.py --folder cifar10 --seeds 0 1 2 --images 10000 --threads 2
    python docs/build_results.py results/training.md     # the table of the rows

The recipes are in ``results/reference/ablation/recipes.yaml``: a base, and for each recipe the keys that differ from
the base. A network is trained by phase 1 of a study, without Ray: a backbone, then heads on it. Recipes with the same
backbone share it. A run that was killed goes on at its last epoch; a network whose row is in the file is left out.
One process at a time may work in a folder ``--storage``.

A row holds accuracies on test, and for each policy a curve: the FLOPs, as a share of the base's network without exits,
at losses of accuracy on test from -1 to 5 points against the network's own last exit
(:func:`study.fronts.matched_cost.matched_costs`). The settings of the policies are fitted and chosen on calibration and
validation images. ``area`` is the mean of the curve of optimal stopping from 0 to 5 points. ``draws`` are
accuracies, and curves at every second loss, on bootstrap samples of the test images: one sample after the other,
divided by semicolons. The samples are the same in all rows of a data set.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from search_spaces.settings import identity
from search_spaces.spec import SpecError, StudySpec, TrainingSpec, parse_change, validate_space
from search_spaces.strict_yaml import read_yaml
from study.arrays import Floats
from study.costs.flops import work_of
from study.costs.measure.meters import device_name
from study.data.loading import load_dataset, load_test_set
from study.data.settings import Dataset, DataSettings, ImageSet
from study.errors import UserError
from study.execution.executor import NamedImages, Network, TrainingContext, trace_networks
from study.execution.local import LocalExecutor
from study.execution.trial_plan import TrialPlan
from study.execution.trial_record import TrialRecord
from study.fronts.matched_cost import bootstrapped_costs, resamples
from study.progress import Reporter
from study.run.phase_1 import run_phase
from study.run.plan import resolve_names, resolve_precision
from study.run.trials import StudyTrials
from study.search.cheapest import PolicyFamily, family_front
from study.search.cross_fit import outcome
from study.search.traced_network import TracedNetwork
from study.storage.publish import content_hash
from study.traces.store import TraceStore
from study.traces.trace import SplitLogits

FOLDER = Path(__file__).parents[1] / "results" / "reference" / "ablation"
FAMILIES = {"stopping": PolicyFamily("optimal_stopping"), "margin": PolicyFamily("hierarchical", "margin")}
LOSSES = tuple(quarter / 400 for quarter in range(-4, 21))
"""Losses of accuracy at which a curve is written: quarters of a point."""
BEYOND = 0.06
"""The loss on validation up to which points belong to a curve: losses on test differ."""
POINTS = 40
"""Points of a curve."""
DRAWS = 100
"""Bootstrap samples of the test images."""
DRAWN_LOSSES = LOSSES[::2]
"""Losses at which a curve on a bootstrap sample is written."""
COLUMNS = (
    *("key", "data", "backbone", "width", "recipe", "changes", "seed", "images", "test_images", "epochs", "precision"),
    *("accuracy", "accuracy_draws", "mean_exit_accuracy", "exit_accuracies", "area"),
    *(f"{name}_{what}" for name in FAMILIES for what in ("half_point", "one_point", "curve", "draws")),
    *("seconds", "device", "threads", "torch"),
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One network that is trained: a recipe with a seed."""

    recipe: str
    changes: str
    """What `--set` changed."""
    from_scratch: bool
    wider: float
    """Its width as a multiple of the base's."""
    spec: StudySpec
    data: DataSettings
    trials: StudyTrials

    @property
    def label(self) -> str:
        """The name of the images: of own images that of their folder."""
        return Path(self.data.folder).name if self.data.folder else self.data.name

    def backbone(self, digest: str) -> TrialPlan:
        """The plan of the backbone on images of a digest."""
        return self.trials.backbones_on(digest)[0]

    def key(self, digest: str) -> str:
        """A hash of all that decides the row."""
        backbone, (exits,) = self.backbone(digest), self.trials.exits_on(self.backbone(digest))
        spec = self.spec
        plans = [exits] if self.from_scratch else [backbone, exits]
        settings = [[identity(plan.network), identity(plan.training)] for plan in plans]
        return content_hash([settings, digest, [spec.backbones.epochs, spec.exits.epochs]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what has no row yet."""
    options = parsed(arguments)
    try:
        ablate(options)
    except (UserError, SpecError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="a data set by name (default: %(default)s)")
    parser.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="a folder of images in place of --data")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="default: what is usual for the data set")
    parser.add_argument("--images", type=int, metavar="N", help="images of the training part (default: all)")
    parser.add_argument("--epochs", type=int, nargs=2, metavar=("BACKBONE", "EXITS"), help="default: of the base")
    parser.add_argument("--width", type=float, help="factor on the channels of the backbone (default: of the base)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--recipes", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of every recipe")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gpu", action="store_true", help="train on a GPU")
    parser.add_argument("--storage", type=Path, default=Path("runs/ablation"), metavar="DIR", help="of checkpoints")
    parser.add_argument("--file", type=Path, default=FOLDER / "recipes.yaml", help="the recipes")
    parser.add_argument("--rows", type=Path, default=FOLDER / "rows.csv", help="the file that gets the rows")
    return parser.parse_args(arguments)


def ablate(options: argparse.Namespace) -> None:
    """Train each recipe with each seed, and write a row for each. All names are checked before any training.

    Raises:
        UserError, SpecError: a recipe is unknown, or a setting or the images are not as a study needs them.
    """
    reporter, done = Reporter(), {row["key"] for row in read_rows(options.rows)}
    runs = [
        make_run(recipe, seed, options)
        for seed in options.seeds  # seed by seed: an unfinished ablation compares all recipes on some seeds
        for recipe in chosen_recipes(options)
    ]
    images: dict[DataSettings, tuple[Dataset, ImageSet]] = {}
    for run in runs:
        if run.data not in images:
            images = {run.data: (load_dataset(run.data, options.data_root), load_test_set(run.data, options.data_root))}
        dataset, test = images[run.data]
        key = run.key(dataset.info.digest)
        if key in done:
            reporter.line(f"{run.label}, {run.recipe}, seed {run.data.seed}: has its row")
            continue
        reporter.line(f"{run.label}, {run.recipe}, seed {run.data.seed}")
        row = measured(run, dataset, test, options.storage.absolute(), reporter)
        add_row(options.rows, {"key": key, **row})
        reporter.line(
            ", ".join(f"{name} {row[name]}" for name in ("accuracy", "area", "stopping_one_point", "seconds"))
        )


def chosen_recipes(options: argparse.Namespace) -> list[str]:
    """The recipes that the options name, or all.

    Raises:
        UserError: one is unknown.
    """
    known = read_yaml(options.file, "recipes")["recipes"]
    for name in options.recipes or ():
        if name not in known:
            raise UserError(f"--recipes: {name!r} is unknown: {options.file} has {', '.join(known)}")
    return options.recipes or list(known)


def make_run(recipe: str, seed: int, options: argparse.Namespace) -> Run:
    """A recipe with a seed, with the changes of the command line; errors as of a study."""
    found = recipe_keys(options.file, recipe)
    study = merged(found.study, asked_of_all(options))
    if found.from_scratch:
        study["exits"]["epochs"] += study["backbones"]["epochs"]
    study["backbones"]["width"] *= found.wider
    changes = [parse_change(text) for text in options.set]
    spec = validate_space({"name": "ablation", "seed": seed, **study}, f"recipe {recipe}", changes)
    executor = LocalExecutor(spec.resources)
    spec, _ = resolve_precision(spec, {}, executor)
    (data,), trials, _ = resolve_names(spec)
    return Run(
        recipe=recipe,
        changes=" ".join(options.set),
        from_scratch=found.from_scratch,
        wider=found.wider,
        spec=spec,
        data=data,
        trials=trials,
    )


class Recipe(NamedTuple):
    """What a recipe asks for."""

    study: dict[str, dict[str, Any]]
    """The keys of a study."""
    from_scratch: bool
    """Whether all is trained together from the seed."""
    wider: float
    """A factor on the width."""


def recipe_keys(file: Path, recipe: str) -> Recipe:
    """What a recipe of a file asks for."""
    found = read_yaml(file, "recipes")
    own = dict(found["recipes"][recipe])
    own = {**found["recipes"].get(own.pop("like", None), {}), **own}
    from_scratch, wider, both = own.pop("from_scratch", False), own.pop("wider", 1.0), own.pop("both", {})
    return Recipe(merged(merged(found["base"], {"backbones": both, "exits": both}), own), from_scratch, wider)


def asked_of_all(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The keys of a study that the options name."""
    folder = options.folder
    epochs = options.epochs or (None, None)
    asked: dict[str, dict[str, Any]] = {
        "data": {
            "name": "image_folder" if folder else options.data,
            "folder": str(folder.absolute()) if folder else None,
            "image_size": options.image_size,
            "limit": options.images,
        },
        "backbones": {"epochs": epochs[0], "width": options.width},
        "exits": {"epochs": epochs[1]},
        "resources": {"cpus_per_trial": options.threads, "gpus_per_trial": int(options.gpu), "max_failures": 0},
    }
    return {section: {key: one for key, one in keys.items() if one is not None} for section, keys in asked.items()}


def merged(keys: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a study with changes of their keys."""
    sections = {**keys, **{name: {} for name in changes if name not in keys}}
    return {name: {**section, **changes.get(name, {})} for name, section in sections.items()}


def measured(run: Run, dataset: Dataset, test: ImageSet, storage: Path, reporter: Reporter) -> dict[str, Any]:
    """Train the network of a run, trace it, and compute its row.

    Raises:
        UserError: a training failed or diverged.
    """
    executor = LocalExecutor(run.spec.resources)
    context = TrainingContext(checkpoints=storage / "checkpoints", dataset=dataset, reporter=reporter)
    plan, records = run.backbone(dataset.info.digest), list[TrialRecord]()
    if not run.from_scratch:
        records.append(trained(plan, run.spec.backbones, context, executor))
    parent = records[0].weights if records else None
    records.append(trained(run.trials.exits_on(plan, parent)[0], run.spec.exits, context, executor))
    histories = [record.checkpoint.history for record in records if record.checkpoint]
    network, tested = traced(run, records[-1], dataset, test, storage, executor, reporter)
    hits = tested.logits.argmax(axis=2) == tested.labels[:, None]
    right = hits.mean(axis=0)
    base = replace(plan.network, width=plan.network.width / run.wider)
    flops = [float(work_of(one, dataset.info).segment_flops.sum()) for one in (plan.network, base)]
    found = {
        name: tuple(values * flops[0] / flops[1] for values in curve(run.spec, network, family, tested))
        for name, family in FAMILIES.items()
    }
    curves = {name: values for name, (values, _) in found.items()}
    return {
        "data": run.label,
        "backbone": plan.network.backbone,
        "width": f"{base.width:g}",
        "recipe": run.recipe,
        "changes": run.changes,
        "seed": run.data.seed,
        "images": len(dataset.train.labels),
        "test_images": len(test.labels),
        "epochs": "+".join(str(len(history)) for history in histories),
        "precision": records[-1].plan.training.precision,
        "accuracy": f"{right[-1]:.4f}",
        "accuracy_draws": listed(resamples(len(test.labels), DRAWS) @ hits[:, -1] / len(test.labels)),
        "mean_exit_accuracy": f"{right[:-1].mean():.4f}",
        "exit_accuracies": listed(right[:-1]),
        "area": f"{curves['stopping'][LOSSES.index(0.0) :].mean():.4f}",
        **{f"{name}_half_point": f"{values[LOSSES.index(0.005)]:.4f}" for name, values in curves.items()},
        **{f"{name}_one_point": f"{values[LOSSES.index(0.01)]:.4f}" for name, values in curves.items()},
        **{f"{name}_curve": listed(values) for name, values in curves.items()},
        **{f"{name}_draws": ";".join(map(listed, draws)) for name, (_, draws) in found.items()},
        "seconds": f"{sum(epoch.seconds for history in histories for epoch in history):.0f}",
        "device": device_name(executor.device),
        "threads": int(run.spec.resources.cpus_per_trial),
        "torch": torch.__version__,
    }


def trained(plan: TrialPlan, section: TrainingSpec, context: TrainingContext, executor: LocalExecutor) -> TrialRecord:
    """Train a trial, or find it trained.

    Raises:
        UserError: the training failed or diverged.
    """
    (record,) = run_phase([plan], section, context, executor)
    if not record.usable:
        raise UserError(f"trial {plan.trial_id} {record.status}: {record.error or 'its losses are not finite'}")
    return record


def traced(
    run: Run,
    record: TrialRecord,
    dataset: Dataset,
    test: ImageSet,
    storage: Path,
    executor: LocalExecutor,
    reporter: Reporter,
) -> tuple[TracedNetwork, SplitLogits]:
    """The traced network of a trial, with counted FLOPs, and its trace of the test images."""
    assert record.weights is not None, "the trial is usable"
    digest = dataset.info.digest
    network: Network = (record.weights, "fp32")
    splits = {
        "calibration": NamedImages(images=dataset.calibration, digest=digest),
        "validation": NamedImages(images=dataset.validation, digest=digest),
        "test": NamedImages(images=test, digest=test.digest),
    }
    store = TraceStore(storage / "traces", storage / "checkpoints", dataset.calibration, executor.device)
    logits = trace_networks([network], splits, store, executor, reporter)
    costs = work_of(record.plan.network, dataset.info).flop_costs()
    calibration, validation, tested = (logits[network, split] for split in splits)
    return TracedNetwork(record.weights, costs, calibration, validation), tested


def curve(spec: StudySpec, network: TracedNetwork, family: PolicyFamily, test: SplitLogits) -> tuple[Floats, Floats]:
    """The FLOPs of a policy on test, as shares of the network without exits.

    Its points are those of its front on validation, replayed on test.

    Returns:
        ``[len(LOSSES)]``, and ``[DRAWS, len(DRAWN_LOSSES)]`` on bootstrap samples of the images.
    """
    least = network.classic_accuracy - BEYOND
    front = family_front(spec.operating_points, network, family, "flops", least)
    found = [outcome(point, test, network, test, "flops") for point in front.spread(POINTS, least)]
    costs, losses = (np.array([getattr(one, name) for one in found]) for name in ("cost", "loss"))
    images = resamples(len(test.labels), DRAWS)
    drawn = bootstrapped_costs(costs, losses, DRAWN_LOSSES, images)
    return bootstrapped_costs(costs, losses, LOSSES, np.ones((1, images.shape[1])))[0], drawn


def listed(values: Floats) -> str:
    """Numbers in one cell."""
    return " ".join(f"{value:.4f}" for value in values)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file; none where there is no file.

    Raises:
        UserError: the file has other columns.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise UserError(f"{path} has other columns than this script writes: name another file with --rows")
        return list(reader)


def add_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a file, which a new file begins with the names of the columns."""
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    sys.exit(main())
