"""One network, without Ray: train it, evaluate it. The two tasks of the published program."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from results.intervals import wilson_interval
from study.checkpoints import (
    check_network,
    load_pretrained,
    new_network,
    read_description,
    weights_fingerprint,
)
from study.costs.device_models import modelled_costs
from study.costs.profile import Costs
from study.data import Dataset, DataSettings, ImageSet, load_dataset, load_test_set, normalize, place, resolve
from study.errors import UserError
from study.inference import join_walks, run_policy
from study.layer_statistics import exit_statistics
from study.learning_curves import Epoch, best_epoch
from study.networks.heads import HeadSettings
from study.networks.multi_exit import MultiExitNetwork, NetworkSettings, load_backbone_weights
from study.policies import Classic, Floats, Policy, Static, Statistic, thresholds_from_logits
from study.progress import Reporter
from study.storage import check_writable, safe_name
from study.stored_traces import trace_images
from study.trace import Trace, batches
from study.training import TrainingSettings, pick_device
from study.trials import TrialPlan, train_in_folder
from study.walks import Walk, prediction_accuracy

Split = Literal["calibration", "validation", "test"]


def resolve_request(
    pretrained: Path | None,
    *,
    backbone: str | None,
    width: float | None,
    head: HeadSettings,
    data: dict[str, Any],
) -> tuple[NetworkSettings, DataSettings]:
    """What a command asks for: what it leaves open (None) comes from the checkpoint it starts from, then from defaults.

    Args:
        pretrained: a checkpoint folder of this program is read for its settings; anything else knows none.
        backbone, width: of the network.
        head: of the network.
        data: fields of :class:`DataSettings`, None where left open.
    """
    known_network, known_data = NetworkSettings(backbone="vgg19"), dict[str, Any](name="digits")
    if pretrained is not None and pretrained.is_dir():
        checkpoint, _ = load_pretrained(pretrained)
        if checkpoint is not None:
            known_network = checkpoint.network
            if data["name"] in (None, checkpoint.data.name):
                known_data = dict(checkpoint.data.settings)
    network = NetworkSettings(
        backbone=known_network.backbone if backbone is None else backbone,
        width=known_network.width if width is None else width,
        head=head,
    )
    asked = {name: value for name, value in data.items() if value is not None}
    return network, resolve(DataSettings(**{**known_data, **asked}))


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Where the images are."""

    data_root: Path
    download: bool = False


def train_one(
    network: NetworkSettings,
    training: TrainingSettings,
    data: DataSettings,
    source: ImageSource,
    *,
    epochs: int,
    device: str,
    folder: Path | None,
    pretrained: Path | None,
    reporter: Reporter,
) -> Epoch:
    """Train one network; goes on where ``folder`` holds an unfinished run of the same settings.

    Args:
        network: for mode ``exits`` and ``joint`` with ``pretrained``, its backbone must fit those weights.
        training, data, source: what to compute, on which images.
        epochs: the budget, from the very first start.
        device: ``auto``, ``cpu``, ``cuda``.
        folder: for ``last`` and ``best``; None: nothing is saved.
        pretrained: backbone weights to start from; required by mode ``exits``.
        reporter: told each epoch.

    Returns:
        The best epoch.

    Raises:
        UserError: mode ``exits`` without weights, or a folder that holds another run.
    """
    if training.mode == "exits" and pretrained is None:
        raise UserError("train: mode exits trains heads on a trained backbone: name one with --pretrained")
    where = pick_device(device)
    check_network(network, data)
    if folder:
        check_writable(folder)
    checkpoint, tensors = load_pretrained(pretrained) if pretrained else (None, None)
    parent = None if tensors is None else f"weights@{weights_fingerprint(tensors)}"
    dataset = load_dataset(data, source.data_root, download=source.download)
    if checkpoint and checkpoint.data.name == data.name and checkpoint.data.digest != dataset.info.digest:
        raise UserError(
            f"{pretrained} was trained on other splits of {data.name}: its training images would be validation images "
            "here; use the same image settings and seed"
        )
    plan = TrialPlan(phase="train", network=network, training=training, data_digest=dataset.info.digest, parent=parent)
    if folder:
        _refuse_other_run(folder, plan)
    with reporter.task(f"train {training.mode}", epochs) as task:
        history = train_in_folder(
            plan,
            dataset,
            folder,
            epochs=epochs,
            device=where,
            backbone_weights=None if tensors is None else lambda: tensors,
            on_epoch=lambda row: task.advance(
                row.epoch, f"loss {row.train_loss:.4f}  validation score {row.score:.4f}  {row.seconds:.1f} s"
            ),
        )
    return best_epoch(history)


def _refuse_other_run(folder: Path, plan: TrialPlan) -> None:
    found = read_description(folder / "last")
    if found is None:
        return
    for what, stored, asked in (
        ("network", found.network, plan.network),
        ("training", found.training, plan.training),
        ("images", found.data.digest, plan.data_digest),
        ("pretrained weights", found.parent, plan.parent),
    ):
        if stored != asked:
            raise UserError(
                f"{folder} holds a run with other {what}: {_difference(stored, asked)}; "
                "choose another --suffix or --output"
            )


def _difference(stored: object, asked: object) -> str:
    if dataclasses.is_dataclass(stored) and dataclasses.is_dataclass(asked):
        for field in dataclasses.fields(stored):
            old, new = getattr(stored, field.name), getattr(asked, field.name)
            if old != new:
                return f"{field.name} is {old!r} there and {new!r} here"
    return f"{stored!r} there and {asked!r} here"


@dataclass(frozen=True)
class LoadedNetwork:
    """A trained network with the images it belongs to."""

    network: MultiExitNetwork
    dataset: Dataset
    data: DataSettings
    heads_trained: bool


def load_network(
    pretrained: Path, source: ImageSource, device: torch.device, settings: NetworkSettings, data: DataSettings
) -> LoadedNetwork:
    """A network to evaluate.

    Args:
        pretrained: a checkpoint folder, or bare weights.
        source: where the images are.
        device: to put it on.
        settings, data: from :func:`resolve_request`; what a checkpoint knows must not differ.

    Raises:
        UserError: another network than the checkpoint's, or other images: thresholds, training and test images would
            mix.
    """
    checkpoint, tensors = load_pretrained(pretrained)
    if checkpoint is not None:
        for name in ("backbone", "width"):
            stored, asked = getattr(checkpoint.network, name), getattr(settings, name)
            if stored != asked:
                raise UserError(f"{pretrained} holds a network of {name} {stored}, not {asked}")
    dataset = load_dataset(data, source.data_root, download=source.download)
    if checkpoint is None:
        network = new_network(settings, dataset.info, data.seed)
        load_backbone_weights(network, tensors)
        return LoadedNetwork(network.to(device).eval(), dataset, data, heads_trained=False)
    if dataset.info.digest != checkpoint.data.digest:
        raise UserError(
            f"these {data.name} images are not those that {pretrained} was trained with "
            f"(digest {dataset.info.digest[:12]}, expected {checkpoint.data.digest[:12]}): the splits would mix"
        )
    network = checkpoint.build(tensors, device)
    return LoadedNetwork(network, dataset, data, heads_trained=checkpoint.training.mode in ("exits", "joint"))


@dataclass(frozen=True)
class Evaluation:
    """What a live run over a split gave."""

    split: str
    walk: Walk
    trace: Trace | None
    """Logits of all exits on the same images, where statistics asked for them."""
    labels: np.ndarray[Any, np.dtype[np.int64]]
    costs: Costs
    seconds: float
    """Wall-clock time of the run, without loading."""

    def summary(self) -> dict[str, Any]:
        """Figures of the run, per image where they are costs."""
        samples = len(self.labels)
        accuracy = self.walk.accuracy(self.labels)
        low, high = wilson_interval(accuracy, samples)
        flops, energy = (float(self.costs.per_sample(self.walk, name).mean()) for name in ("flops", "energy"))
        return {
            "split": self.split,
            "samples": samples,
            "accuracy": accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "flops": flops,
            "flops_share_of_classic": flops / self.costs.classic("flops"),
            "energy_joules": energy,
            "energy_share_of_classic": energy / self.costs.classic("energy"),
            "energy_source": self.costs.energy_source,
            "mean_exit": float(self.walk.exit_index.mean()),
            "mean_heads_run": float(self.walk.heads_run.mean()),
            "seconds_per_image": self.seconds / samples,
        }

    def statistics(self) -> pd.DataFrame:
        """Statistics of each layer."""
        assert self.trace is not None, "statistics need all logits"
        return exit_statistics(self.trace, self.walk, self.costs)


def split_images(loaded: LoadedNetwork, split: Split, source: ImageSource) -> ImageSet:
    """The images of a split; only ``test`` opens the test images."""
    if split == "test":
        return load_test_set(loaded.data, source.data_root, download=source.download)
    images: ImageSet = getattr(loaded.dataset, split)
    return images


def calibrate(loaded: LoadedNetwork, statistic: Statistic) -> Floats:
    """Thresholds ``[E]`` from the calibration split."""
    calibration = trace_images(loaded.network, loaded.dataset.calibration, loaded.dataset.info)
    return thresholds_from_logits(calibration.logits, statistic)


def evaluate_one(
    loaded: LoadedNetwork,
    images: ImageSet,
    policy: Policy,
    *,
    split: str,
    statistic: Statistic,
    batch_size: int,
    each_layer: bool,
    reporter: Reporter,
) -> Evaluation:
    """Run a policy live over a split.

    Args:
        loaded: the network.
        images: of the split.
        policy: any; all but ``Classic`` need trained heads.
        split: its name.
        statistic: of the thresholds.
        batch_size: images a batch; 1 is the published program's way.
        each_layer: also run every exit on every image, for the statistics of each layer.
        reporter: told the number of images done.
    """
    network, info = loaded.network, loaded.dataset.info
    if not (loaded.heads_trained or isinstance(policy, Classic)):
        raise UserError(
            "evaluate: this network's exit heads are not trained; train them with --mode exits, or use"
            " --evaluate-mode normal"
        )
    policy.first_exit(network.exit_count)
    compares = not isinstance(policy, Classic | Static)
    thresholds = calibrate(loaded, statistic) if compares or each_layer else np.zeros(network.exit_count)
    pixels = place(images.images, next(network.parameters()).device)
    costs = modelled_costs(network)
    walks, started = [], time.perf_counter()
    with reporter.task("evaluate", len(images.labels)) as task:
        for batch in batches(len(images.labels), batch_size):
            inputs = normalize(pixels[batch].to(next(network.parameters()).device), info)
            walks.append(run_policy(network, inputs, policy, thresholds))
            task.advance(batch.stop)
    seconds = time.perf_counter() - started
    trace = None
    if each_layer:
        everything = trace_images(network, images, info)
        trace = Trace(everything.logits, everything.labels, thresholds)
    return Evaluation(split, join_walks(walks), trace, images.labels, costs, seconds)


def accuracy_forward(
    loaded: LoadedNetwork,
    images: ImageSet,
    *,
    beta: float,
    start_layer: int,
    max_jump: int,
    statistic: Statistic,
) -> dict[str, Any]:
    """Accuracy forward: how often the engine predicts the right exit on a split."""
    if not loaded.heads_trained:
        raise UserError("evaluate: the accuracy forward needs trained exit heads (train --mode exits)")
    split = trace_images(loaded.network, images, loaded.dataset.info)
    trace = Trace(split.logits, split.labels, calibrate(loaded, statistic))
    share, predictions = prediction_accuracy(trace, beta, start_layer, max_jump)
    return {
        "prediction_accuracy": share if predictions else None,
        "predictions": predictions,
        "samples": len(split.labels),
    }


def default_folder(network: NetworkSettings, mode: str, data: DataSettings, suffix: str | None) -> Path:
    """``models/<backbone>-<mode>-<data>[-<suffix>]``."""
    parts = [network.backbone, mode, data.name, *([suffix] if suffix else [])]
    return Path("models") / safe_name("-".join(parts), "the model's name")
