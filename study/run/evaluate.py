"""One trained network, without Ray: evaluate it live, with or without exits, at any precision."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from results.intervals import wilson_interval
from results.parts import rows_of
from study.arrays import Floats, batches
from study.checkpoints.pretrained import build_pretrained, check_fit, load_pretrained
from study.costs.costs import Costs, Measure, same_flops
from study.costs.measure.profile import check_same_device, read_profile
from study.costs.model.devices import FALLBACK, LevelDevice, load_device
from study.costs.model.dvfs import LevelCosts, Rule, simulate, smallest_slack
from study.data.batches import normalize, place, to_device
from study.data.loading import load_dataset, load_test_set
from study.data.settings import Dataset, DataSettings, ImageSet
from study.errors import UserError
from study.fronts.engine_accuracy import prediction_accuracies, prediction_confusion
from study.fronts.exit_statistics import exit_statistics
from study.networks.construction import new_network
from study.networks.inference_network import RunnableNetwork
from study.networks.multi_exit import MultiExitNetwork, load_backbone_weights
from study.networks.precisions import Precision
from study.networks.quantization import check_precision
from study.networks.settings import NetworkSettings
from study.policies.live import run_policy
from study.policies.policies import Classic, Policy, Predictive, Static
from study.policies.replay import Walk, join_walks, replay
from study.policies.thresholds import Statistic, thresholds_from_logits
from study.progress import Reporter
from study.run.train_one import ImageSource
from study.traces.collect import ready, trace_images
from study.traces.trace import Trace

Split = Literal["calibration", "validation", "test"]


@dataclass(frozen=True)
class LoadedNetwork:
    """A trained network with the images it belongs to."""

    network: MultiExitNetwork
    runnable: RunnableNetwork
    """The network at the precision that was asked for."""
    dataset: Dataset
    data: DataSettings
    heads_trained: bool


def load_network(
    pretrained: Path,
    source: ImageSource,
    device: torch.device,
    settings: NetworkSettings,
    data: DataSettings,
    *,
    precision: str = "fp32",
    compiled: bool = False,
) -> LoadedNetwork:
    """A network to evaluate.

    Args:
        pretrained: a checkpoint folder, or bare weights.
        source: where the images are.
        device: to put it on.
        settings, data: from :func:`resolve_request`; what a checkpoint knows must not differ.
        precision: to run at; int8 finds its ranges on the calibration split.
        compiled: let ``torch.compile`` make the kernels.

    Raises:
        UserError: another network than the checkpoint's, or other images: thresholds, training and test images would
            mix.
    """
    known = check_precision(precision, device)
    checkpoint, tensors = load_pretrained(pretrained)
    if checkpoint is not None:
        for name in ("backbone", "width"):
            stored, asked = getattr(checkpoint.network, name), getattr(settings, name)
            if stored != asked:
                raise UserError(f"{pretrained} holds a network of {name} {stored}, not {asked}")
    dataset = load_dataset(data, source.data_root, download=source.download)
    if checkpoint is None:
        check_fit(pretrained, tensors, settings, dataset.info)
        network = new_network(settings, dataset.info, data.seed)
        load_backbone_weights(network, tensors)
        network.to(device).eval()
        runnable = ready(network, known, dataset.calibration, dataset.info, compiled=compiled)
        return LoadedNetwork(network, runnable, dataset, data, heads_trained=False)
    if dataset.info.digest != checkpoint.data.digest:
        raise UserError(
            f"these {data.name} images are not those that {pretrained} was trained with "
            f"(digest {dataset.info.digest[:12]}, expected {checkpoint.data.digest[:12]}): the splits would mix"
        )
    network = build_pretrained(pretrained, checkpoint, tensors, device)
    runnable = ready(network, known, dataset.calibration, dataset.info, compiled=compiled)
    return LoadedNetwork(network, runnable, dataset, data, heads_trained=checkpoint.training.mode in ("exits", "joint"))


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
    policy: Policy
    precision: Precision
    int8_execution: str | None

    def summary(self) -> dict[str, Any]:
        """Figures of the run, per image where they are costs."""
        samples = len(self.labels)
        accuracy = self.walk.accuracy(self.labels)
        low, high = wilson_interval(accuracy, samples)
        costs = self.costs
        result: dict[str, Any] = {
            "split": self.split,
            "samples": samples,
            "accuracy": accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "precision": self.precision,
            "int8_execution": self.int8_execution,
        }
        names: dict[Measure, str] = {"flops": "flops", "energy": "energy_joules", "seconds": "latency_mean_seconds"}
        for measure, name in names.items():
            if costs.holds(measure):
                mean = float(costs.per_sample(self.walk, measure).mean())
                result |= {name: mean, f"{measure}_share_of_classic": mean / costs.classic(measure)}
        return result | {
            "energy_source": costs.energy_source,
            "latency_source": costs.seconds_source,
            "costs_device": costs.device,
            "costs_batch_size": costs.batch_size,
            "mean_exit": float(self.walk.exit_index.mean()),
            "mean_heads_run": float(self.walk.heads_run.mean()),
            "wall_clock_seconds_per_image": self.seconds / samples,
            **self._agreement(),
        }

    def _agreement(self) -> dict[str, float]:
        """How often the replay of all logits, traced in other batches, stops where the live run did."""
        if self.trace is None:
            return {}
        again = replay(self.trace, self.policy)
        same = (again.exit_index == self.walk.exit_index) & (again.predictions == self.walk.predictions)
        return {"replay_agreement": float(same.mean())}

    def under_rule(self, levels: LevelCosts, rule: Rule, slack: float | None) -> dict[str, Any]:
        """What the run would take if the frequency followed a rule; energies are those of a period, idle or busy:
        the deadline and one switch back to f_max.

        Args:
            levels: costs of the network at each level of a device.
            rule: that sets the frequency.
            slack: share of the classic network's time by which an answer may exceed it; None: the smallest that the
                policy can keep.

        Raises:
            UserError: ``deadline`` cannot keep its deadline within the slack.
        """
        chosen = smallest_slack(levels, self.policy, levels.exit_count) if slack is None else slack
        at_f_max = levels.costs[-1]
        period = (1 + chosen) * at_f_max.classic("seconds") + levels.switch_seconds
        simulated = simulate(self.walk, levels, rule=rule, policy=self.policy, slack=chosen, period=period)
        idle = levels.idle_watts * (period - at_f_max.classic("seconds"))
        joules = float(simulated.joules.mean())
        p50, p99 = np.quantile(simulated.seconds, [0.5, 0.99])
        return {
            "dvfs": rule,
            "dvfs_slack": chosen,
            "dvfs_smallest_slack": simulated.smallest_slack,
            "energy_joules": joules,
            "energy_share_of_classic": joules / (at_f_max.classic("energy") + idle),
            "latency_mean_seconds": float(simulated.seconds.mean()),
            "latency_p50_seconds": float(p50),
            "latency_p99_seconds": float(p99),
            "seconds_share_of_classic": float(simulated.seconds.mean()) / at_f_max.classic("seconds"),
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
    calibration = trace_images(loaded.runnable, loaded.dataset.calibration, loaded.dataset.info)
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
    costs: Costs,
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
        costs: of the network, from :func:`costs_of`.
        reporter: told the number of images done.
    """
    network, info = loaded.runnable, loaded.dataset.info
    if not (loaded.heads_trained or isinstance(policy, Classic)):
        raise UserError(
            "evaluate: this network's exit heads are not trained; train them with --mode exits, or use"
            " --evaluate-mode normal"
        )
    policy.first_exit(network.exit_count)
    compares = not isinstance(policy, Classic | Static) and policy.criterion == "logit"
    thresholds = calibrate(loaded, statistic) if compares or each_layer else np.zeros(network.exit_count)
    pixels = place(images.images, network.device)
    if network.compiled:  # the compiler works at the first batch; its time is not the network's
        run_policy(network, normalize(to_device(pixels[:batch_size], network.device), info), policy, thresholds)
    walks, started = [], time.perf_counter()
    with reporter.task("evaluate", len(images.labels)) as task:
        for batch in batches(len(images.labels), batch_size):
            inputs = normalize(to_device(pixels[batch], network.device), info)
            walks.append(run_policy(network, inputs, policy, thresholds))
            task.advance(batch.stop)
    seconds = time.perf_counter() - started
    trace = None
    if each_layer:
        everything = trace_images(network, images, info)
        trace = Trace(everything.logits, everything.labels, thresholds)
    return Evaluation(
        split,
        join_walks(walks),
        trace,
        images.labels,
        costs,
        seconds,
        policy,
        network.precision,
        network.int8_execution,
    )


def costs_of(loaded: LoadedNetwork, name_or_profile: str, *, other_device: bool) -> Costs:
    """The costs of a network: of a device table, by name or path, or of a measured profile (a ``.json`` file).

    Args:
        loaded: the network.
        name_or_profile: where its costs come from.
        other_device: whether a profile may be of another device than the one that runs.

    Raises:
        UserError: there is no such table or profile, or it is of another device, network or precision.
    """
    network = loaded.runnable
    if not name_or_profile.endswith(".json"):
        return load_device(name_or_profile).costs(loaded.network, precision=network.precision, batch_size=1)
    profile = read_profile(Path(name_or_profile))
    if not other_device:
        try:
            check_same_device(profile, network.device)
        except UserError as error:
            raise UserError(f"{name_or_profile}: {error}") from None
    counted = load_device(FALLBACK).costs(loaded.network, precision=network.precision, batch_size=1)
    if profile.precision != network.precision:
        raise UserError(f"{name_or_profile} is a profile at {profile.precision}, not at {network.precision}")
    if not same_flops(profile.costs, counted):
        raise UserError(f"{name_or_profile} is a profile of another network: its parts count other FLOPs")
    return profile.costs


def check_cost_options(costs: str, rule: str | None, slack: float | None) -> None:
    """Refuse what can be refused before a network is loaded.

    Raises:
        UserError: there is no such table or profile, or slack and rule do not go together.
        OSError: a profile cannot be read.
    """
    if slack is not None and (rule is None or not (math.isfinite(slack) and slack >= 0)):
        raise UserError(f"--dvfs-slack {slack:g}: expected a finite number from 0, beside --dvfs")
    if costs.endswith(".json"):
        read_profile(Path(costs))
        levelled = False
    else:
        levelled = isinstance(load_device(costs), LevelDevice)
    if rule is not None and not levelled:
        raise UserError(f"--dvfs: {costs} has no frequency levels: name a device table with levels, as jetson-tx2")


def check_slack(levels: LevelCosts, rule: Rule, policy: Policy, slack: float | None) -> None:
    """Refuse a slack within which the policy cannot keep its deadline, before anything runs.

    Raises:
        UserError: it is too small; the smallest one is named.
    """
    smallest = smallest_slack(levels, policy, levels.exit_count)
    if rule == "deadline" and slack is not None and slack < smallest:
        raise UserError(f"--dvfs-slack {slack:g}: the worst walk of this policy needs at least {smallest:.6g}")


def levels_of(loaded: LoadedNetwork, device: str) -> LevelCosts:
    """The costs of a network at each frequency level of a modelled device.

    Raises:
        UserError: the device has not the network's precision.
    """
    table = load_device(device)
    assert isinstance(table, LevelDevice), "checked before the network was loaded"
    return table.level_costs(loaded.network, precision=loaded.runnable.precision, batch_size=1)


def accuracy_forward(
    loaded: LoadedNetwork,
    images: ImageSet,
    *,
    betas: Sequence[float],
    start_layer: int,
    max_jump: int,
    statistic: Statistic,
) -> dict[str, Any]:
    """Accuracy forward: how often the engine predicts the right exit on a split, by one pass over its images.

    With one beta also the confusion matrix of predicted and true distance at ``start_layer``, and the accuracy at each
    start layer; with several, the accuracy of each of them.
    """
    if not loaded.heads_trained:
        raise UserError("evaluate: the accuracy forward needs trained exit heads (train --mode exits)")
    for beta in betas:
        Predictive(beta, start_layer, max_jump).first_exit(loaded.runnable.exit_count)
    split = trace_images(loaded.runnable, images, loaded.dataset.info)
    trace = Trace(split.logits, split.labels, calibrate(loaded, statistic))
    by_start_layer = list(rows_of(prediction_accuracies(trace, betas, max_jump=max_jump)))
    result: dict[str, Any] = {"samples": len(split.labels)}
    if len(betas) == 1:
        confusion = prediction_confusion(trace, betas[0], start_layer, max_jump)
        predictions = int(confusion.sum())
        distances = [*map(str, range(1, max_jump)), f"{max_jump}+"]
        result |= {
            "prediction_accuracy": float(confusion.trace() / predictions) if predictions else None,
            "predictions": predictions,
            "confusion": [
                {"predicted": name, **{f"true {true}": int(count) for true, count in zip(distances, row, strict=True)}}
                for name, row in zip(distances, confusion, strict=True)
            ],
        }
    return {**result, "by_start_layer": by_start_layer}
