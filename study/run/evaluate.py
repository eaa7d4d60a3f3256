"""Run a policy live on a split with one trained network, and report accuracy and costs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from results.intervals import wilson_interval
from study.arrays import Floats, batches
from study.costs.costs import Costs, Measure
from study.costs.model.dvfs import LevelCosts, Rule, simulate, smallest_slack
from study.data.batches import normalize, place, to_device
from study.data.settings import ImageSet
from study.errors import UserError
from study.fronts.exit_statistics import exit_statistics
from study.networks.precisions import Precision
from study.policies.base import Policy
from study.policies.live import run_policy
from study.policies.replay import Walk, join_walks, replay
from study.policies.thresholds import Statistic, thresholds_from_logits
from study.progress import Reporter
from study.run.loaded_network import LoadedNetwork
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
        """The share of images for which a replay of the trace stops at the exit of the live run."""
        if self.trace is None:
            return {}
        again = replay(self.trace, self.policy)
        same = (again.exit_index == self.walk.exit_index) & (again.predictions == self.walk.predictions)
        return {"replay_agreement": float(same.mean())}

    def under_rule(self, levels: LevelCosts, rule: Rule, slack: float | None) -> dict[str, Any]:
        """The costs of the run if the frequency followed a rule.

        Energies are those of a period, which is the deadline and one switch back to f_max. They include idle energy.

        Args:
            levels: costs of the network at each level of a device.
            rule: sets the frequency.
            slack: share of the classic network's time by which an answer may be later than the classic network's; None:
                the smallest slack that the policy can keep.

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
    """Run a policy live over a split.

    Args:
        loaded: the network.
        images: of the split.
        policy: any policy; all but ``Classic`` need trained heads.
        split: the name of the split.
        statistic: of the thresholds.
        batch_size: images a batch; the published program takes 1.
        each_layer: also run every exit on every image, for the statistics of each layer.
        costs: of the network, from :func:`costs_of`.
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
        costs,
        seconds,
        policy,
        network.precision,
        network.int8_execution,
    )
