"""Evaluate one trained network on a split: run a policy live, or ask how often the prediction engine is right."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.intervals import wilson_interval
from results.parts import rows_of
from search_spaces.settings import MEASURED
from study.arrays import Floats, balanced, batches
from study.costs.costs import Costs, Measure
from study.costs.measure.profile import Profile, read_profile
from study.costs.model.devices import Device, LevelDevice, load_device
from study.costs.model.dvfs import LevelCosts, Rule, simulate, smallest_slack
from study.data.batches import normalize, place, to_device
from study.data.settings import ImageSet
from study.errors import UserError
from study.fronts.engine_accuracy import prediction_accuracies, prediction_confusion
from study.fronts.exit_statistics import exit_statistics
from study.networks.precisions import Precision
from study.policies.base import Policy
from study.policies.live import run_policy
from study.policies.policies import Predictive
from study.policies.replay import Walk, join_walks, replay
from study.policies.thresholds import Statistic, thresholds_from_logits
from study.progress import Reporter
from study.run.one_network import LoadedNetwork
from study.search.cost_source import cost_table, profiled_costs
from study.traces.collect import trace_images
from study.traces.trace import Trace


@dataclass(frozen=True)
class Evaluation:
    """The result of a live run on a split."""

    split: str
    walk: Walk
    trace: Trace | None
    """Logits of all exits on the same images; None unless statistics of each layer are asked for."""
    labels: np.ndarray[Any, np.dtype[np.int64]]
    costs: Costs
    seconds: float
    """Wall-clock time of the run, without the loading of network and images."""
    policy: Policy
    precision: Precision
    int8_execution: str | None

    def summary(self) -> dict[str, Any]:
        """The figures of the run; costs are per image."""
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
            "balanced_accuracy": float(balanced(self.walk.predictions == self.labels, self.labels)),
            "precision": self.precision,
            "int8_execution": self.int8_execution,
        }
        names: dict[Measure, str] = {"flops": "flops", "energy": "energy_joules", "seconds": "latency_mean_seconds"}
        for measure, name in names.items():
            if costs.holds(measure):
                mean = float(costs.per_sample(self.walk, measure).mean())
                result |= {name: mean, f"{measure}_share_of_classic": mean / costs.classic(measure)}
        result |= {
            "energy_source": costs.energy_source,
            "latency_source": costs.seconds_source,
            "costs_device": costs.device,
            "costs_batch_size": costs.batch_size,
            "mean_exit": float(self.walk.exit_index.mean()),
            "mean_heads_run": float(self.walk.heads_run.mean()),
            "wall_clock_seconds_per_image": self.seconds / samples,
        }
        if self.trace is not None:
            again = replay(self.trace, self.policy)
            same = (again.exit_index == self.walk.exit_index) & (again.predictions == self.walk.predictions)
            result["replay_agreement"] = float(same.mean())
        return result

    def under_rule(self, levels: LevelCosts, rule: Rule, slack: float | None) -> dict[str, Any]:
        """The costs of the run if the frequency followed a rule.

        Energies are those of a period, which is the deadline and one switch back to f_max. They include idle energy.
        ``slack`` is the share of the classic network's time by which an answer may be later than the classic network's;
        None: the smallest slack that the policy can keep.

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
    """Run a policy live over the images of a split.

    Args:
        loaded: the network; all policies but ``Classic`` need trained heads.
        images, split: the images and the name of the split.
        policy: any policy.
        statistic: of the thresholds.
        batch_size: images a batch; the published program takes 1.
        each_layer: also run every exit on every image, for the statistics of each layer.
        costs: of the network.
        reporter: told the number of images done.
    """
    network, info = loaded.runnable, loaded.dataset.info
    if not loaded.heads_trained and policy.heads_it_may_run(network.exit_count).any():
        raise UserError(
            "evaluate: this network's exit heads are not trained; train them with --mode exits, or use"
            " --evaluate-mode normal"
        )
    policy.first_exit(network.exit_count)
    needed = policy.compares_thresholds or each_layer
    thresholds = calibrate(loaded, statistic) if needed else np.zeros(network.exit_count)
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
        costs.with_decisions(policy.decision_flops(loaded.network.classes)),
        seconds,
        policy,
        network.precision,
        network.int8_execution,
    )


def accuracy_forward(
    loaded: LoadedNetwork,
    images: ImageSet,
    *,
    betas: Sequence[float],
    start_layer: int,
    max_jump: int,
    statistic: Statistic,
) -> dict[str, Any]:
    """Measure how often the engine predicts the right exit on a split.

    Returns:
        ``by_start_layer``, the accuracy for each beta and start layer. With one beta also ``prediction_accuracy``,
        ``predictions`` and ``confusion`` (predicted and true distance) at ``start_layer``.

    Raises:
        UserError: the heads are not trained, or beta, start layer or jump do not fit the network.
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


def load_costs(costs: str, rule: str | None, slack: float | None) -> Device | Profile:
    """The device table, by name or path, or the measured profile (a ``.json`` file) that the options of costs name.

    Raises:
        UserError: there is no such table or profile, or slack, rule and table do not fit together.
        OSError: a profile cannot be read.
    """
    if slack is not None and (rule is None or not (math.isfinite(slack) and slack >= 0)):
        raise UserError(f"--dvfs-slack {slack:g}: expected a finite number from 0, beside --dvfs")
    source = read_profile(Path(costs)) if costs.endswith(".json") else load_device(costs)
    if rule is not None and not isinstance(source, LevelDevice):
        raise UserError(f"--dvfs: {costs} has no frequency levels: name a device table with levels, as jetson-tx2")
    return source


def costs_of(loaded: LoadedNetwork, name: str, source: Device | Profile, *, other_device: bool) -> Costs:
    """The costs of a network, from :func:`load_costs` of a name or path.

    Raises:
        UserError: the table lacks the precision, or the profile is of another network or precision, or (without
            ``other_device``) of another device than the network's.
    """
    network = loaded.runnable
    table = cost_table(MEASURED) if isinstance(source, Profile) else source
    costs = table.costs(loaded.network, precision=network.precision, batch_size=1)
    if not isinstance(source, Profile):
        return costs
    return profiled_costs(Path(name), source, costs, network.precision, None if other_device else network.device)


def levels_of(
    loaded: LoadedNetwork, source: Device | Profile, policy: Policy, rule: Rule, slack: float | None
) -> LevelCosts:
    """The costs of a network at each frequency level, before anything runs.

    Raises:
        UserError: the device lacks the precision of the network, or the policy cannot keep the deadline within the
            slack; the message names the smallest possible slack.
    """
    assert isinstance(source, LevelDevice), "checked before the network was loaded"
    levels = source.level_costs(loaded.network, precision=loaded.runnable.precision, batch_size=1)
    smallest = smallest_slack(levels, policy, levels.exit_count)
    if rule == "deadline" and slack is not None and slack < smallest:
        raise UserError(f"--dvfs-slack {slack:g}: the worst walk of this policy needs at least {smallest:.6g}")
    return levels
