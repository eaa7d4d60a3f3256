"""Exit rules of other programs and of this one on the same traces: loss, FLOPs, and the time to find the settings.

    python tests/benchmarks/peers.py
    python tests/benchmarks/peers.py runs/quickstart runs/cifar10 ...

Without arguments, the traces are those of ``results/reference``. From each run folder the network with the best exits
is taken, in fp32. The families of rules:

- ``earlyon``: greedy thresholds of each head on softmax with temperatures, by the calibrator of earlyon 0.3.0, with the
  program's own grid of thresholds and with a finer one. earlyon is not installed with this program: install it with
  ``pip install --no-deps earlyon==0.3.0``. Without it the script says so and goes on.
- one threshold of softmax, entropy or margin for all exits from a start layer on, and the paper's engine: every point
  of the exact front on validation.
- ``head_thresholds`` and ``optimal_stopping``: fitted on calibration, one setting a price.

Settings are fitted on calibration or chosen on validation, and every figure that is printed is of the test split. Of
each family the settings that no other setting dominates on validation make the curve of loss against FLOPs, at most
``MOST`` of them, evenly spaced. Intervals are 95 % bootstrap intervals over the test images.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from report import circumstances, print_circumstances, print_table
from torch import nn

from results.pareto import non_dominated
from search_spaces.spec import validate_space
from study.arrays import Floats
from study.fronts.head_thresholds import fit_head_thresholds
from study.fronts.matched_cost import matched_costs
from study.fronts.optimal_stopping import fit_optimal_stopping
from study.policies.base import Policy
from study.policies.criteria import Criterion
from study.policies.policies import Classic, Placed
from study.policies.replay import replay
from study.run.reader import stored_logits, stored_networks, stored_study
from study.search.exact_search import exact_points
from study.search.traced_network import TracedNetwork
from study.traces.trace import SplitLogits, Trace

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
STUDIES = (
    *("vgg19-cifar10", "resnet34-quarter-cifar10", "vgg19-quarter-fashion-mnist"),
    *("vgg19-quarter-tiny-imagenet", "vgg19-cifar10-published"),
)
LOSSES = (0.005, 0.01, 0.02)
BOUND = 0.01
"""Accuracy that the setting chosen on validation may lose there."""
MOST = 300
DROPS = (0.0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.04)
"""Bounds on the loss that earlyon's calibrator is asked for."""
FINE = tuple(float(1 - unsure) for unsure in np.geomspace(0.0005, 0.6, 30))
OURS = "optimal_stopping"
ENGINE = "paper's engine"


class Setting(NamedTuple):
    """A policy, and the trace on which it decides."""

    policy: Policy
    read: Callable[[SplitLogits], Trace]


class Curve(NamedTuple):
    """A family on a network: its settings on validation and on the images of test."""

    name: str
    seconds: float
    chosen: int | None
    """The cheapest setting that keeps the bound on validation."""
    right: Floats
    """``[S, N]`` on test."""
    cost: Floats
    """``[S, N]``, shares of the classic network's FLOPs."""


def main() -> None:
    """Compare, and print one table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", help="run folders (default: the reference studies)")
    parser.add_argument("--draws", type=int, default=300, help="of the bootstrap")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # the calibrator's operations are small
    facts = circumstances()
    print_circumstances(facts)
    if not (earlyon := _earlyon()):
        print("\nearlyon is not installed (pip install --no-deps earlyon==0.3.0): its rows are left out")
    results = []
    for folder in options.folders or [REFERENCE / name for name in STUDIES]:
        study = stored_study(folder, [("operating_points.quantization", "fp32")])
        networks = stored_networks(folder, study.operating_points)
        network = max(networks, key=lambda one: one.trace(None).right.mean())
        test = stored_logits(folder, [network], "test")[network.weights, network.precision]
        curves = [curve_of(network, test, *family) for family in families(network, earlyon)]
        rows = table_of(curves, test, options.draws)
        counts = [len(split.labels) for split in (network.calibration, network.validation, test)]
        print_table(f"{folder.name}: {' / '.join(map(str, counts))} images to calibrate / validate / test", rows)
        results += [{"study": folder.name, **row} for row in rows]
    if options.json:
        print(json.dumps({"circumstances": facts, "results": results}))


def families(network: TracedNetwork, earlyon: bool) -> Iterator[tuple[str, Callable[[], Sequence[Setting]]]]:
    """Name -> what finds the settings of the family."""
    if earlyon:
        yield "earlyon, its grid", lambda: greedy_thresholds(network, None)
        yield "earlyon, fine grid", lambda: greedy_thresholds(network, FINE)
    for criterion in ("max_softmax", "entropy", "margin"):
        space = {"policy": "hierarchical", "criterion": criterion}
        yield f"one threshold, {criterion}", lambda space=space: exact_settings(network, space)
    engine = {"policy": "predictive", "overshoot": ["last_exit", "classifier"], "max_jump": {"low": 2, "high": 8}}
    yield ENGINE, lambda: exact_settings(network, {**engine, "statistic": ["mean_logit", "mean_max"]})
    head_criteria: tuple[Criterion, ...] = ("max_softmax", "entropy", "log_margin")
    for own in head_criteria:
        yield f"head_thresholds, {own}", lambda own=own: fitted(network, own)
    yield OURS, lambda: fitted(network, None)


def fitted(network: TracedNetwork, criterion: Criterion | None) -> list[Setting]:
    """Thresholds of each head by a criterion, or optimal stopping, fitted on calibration."""
    trace, costs = fresh_trace(network), network.costs
    if criterion is None:
        return [Setting(policy, network_reader(network)) for policy in fit_optimal_stopping(trace, costs)]
    return [Setting(policy, network_reader(network)) for policy in fit_head_thresholds(trace, costs, criterion)]


def fresh_trace(network: TracedNetwork) -> Trace:
    """The calibration trace without scores of earlier families, whose time would be missing."""
    return Trace(network.calibration.logits, network.calibration.labels, np.ones(network.exit_count))


def network_reader(network: TracedNetwork, statistic: Any = None) -> Callable[[SplitLogits], Trace]:
    """Reads a split with thresholds of the calibration split."""
    return lambda split: network.trace(statistic, split)


def exact_settings(network: TracedNetwork, space: dict[str, object]) -> list[Setting]:
    """The exact front of a space on validation."""
    raw = {"name": "peers", "operating_points": {"quantization": "fp32", "objectives": ["accuracy", "flops"], **space}}
    spec = validate_space(raw, "peers").operating_points
    points, _ = exact_points(spec, [network], network.classic_accuracy)
    return [Setting(one.policy, network_reader(network, one.statistic)) for one in points]


# --- earlyon ---------------------------------------------------------------------------------------------------------


def _earlyon() -> bool:
    try:
        import_module("earlyon.core.thresholds")
    except ImportError:
        return False
    return True


class Traced(nn.Module):
    """What earlyon's calibrator asks of a model, from a trace: an image is the logits ``[E+1, C]`` of all heads."""

    def __init__(self, network: TracedNetwork) -> None:
        super().__init__()
        types = import_module("earlyon.core.types")
        segments = np.asarray(network.costs.segment_flops)
        names = [f"exit{exit}" for exit in range(1, network.exit_count + 1)]
        self._flops_at = dict(zip(names, (segments.cumsum() / segments.sum()).tolist(), strict=False))
        self.config = types.EarlyExitConfig(
            backbone="traced",
            num_classes=network.calibration.logits.shape[2],
            exit_points=[types.ExitPoint(name, name, 1) for name in names],
        )

    def forward(self, logits: torch.Tensor, mode: str) -> list[torch.Tensor]:
        """All heads."""
        assert mode == "training"
        return list(logits.unbind(dim=1))


def greedy_thresholds(network: TracedNetwork, grid: tuple[float, ...] | None) -> list[Setting]:
    """earlyon's thresholds and temperatures, fitted on calibration, one setting for each bound on the loss."""
    calibrate = import_module("earlyon.core.thresholds").calibrate_thresholds
    split, model = network.calibration, Traced(network)
    batches = [(torch.from_numpy(np.array(split.logits)), torch.from_numpy(np.array(split.labels)))]
    settings = []
    for number, drop in enumerate(DROPS if grid is None else DROPS[2:10:2]):  # a fine grid takes three times as long
        # The temperatures do not depend on the bound; they stay in the model's configuration.
        found = calibrate(model, batches, drop, grid, fit_temperature=number == 0, temperature_loader=batches)
        temperatures = np.array(list(model.config.temperatures.values()), dtype=np.float32)[:, None]
        thresholds = np.where(found.enabled_exits, found.thresholds, np.inf)
        exits = (np.flatnonzero(found.enabled_exits) + 1).tolist()
        policy = Placed(thresholds, exits, "max_softmax") if exits else Classic()
        settings.append(Setting(policy, lambda one, temperatures=temperatures: tempered(one, temperatures)))
    return settings


def tempered(split: SplitLogits, temperatures: np.ndarray[Any, np.dtype[np.float32]]) -> Trace:
    """The trace of a split with each head's logits divided by the head's temperature."""
    return Trace(split.logits / temperatures, split.labels, np.ones(len(temperatures) - 1))


# --- curves ----------------------------------------------------------------------------------------------------------


def curve_of(network: TracedNetwork, test: SplitLogits, name: str, find: Callable[[], Sequence[Setting]]) -> Curve:
    """Find the settings of a family, keep those that none dominates on validation, and replay them on test."""
    start = time.perf_counter()
    settings = find()
    seconds = time.perf_counter() - start
    settings = thinned(settings)
    validation = network.validation
    means = np.array([(right.mean(), cost.mean()) for right, cost in outcomes(network, settings, validation)])
    front = np.flatnonzero(non_dominated(means, maximize=[True, False]))
    front = front[np.argsort(means[front, 1])]
    enough = np.flatnonzero(means[front, 0] >= network.classic_accuracy - BOUND - 1e-12)
    right, cost = zip(*outcomes(network, [settings[place] for place in front], test), strict=True)
    print(f"  {name}: {len(front)} settings, {seconds:.2f} s", flush=True)
    return Curve(name, seconds, int(enough[0]) if len(enough) else None, np.array(right), np.array(cost))


def thinned(settings: Sequence[Setting]) -> list[Setting]:
    """At most ``MOST`` of the settings, evenly spaced in their order (that of an exact front is by cost)."""
    places = np.unique(np.linspace(0, len(settings) - 1, min(MOST, len(settings))).round().astype(int))
    return [settings[place] for place in places]


def outcomes(
    network: TracedNetwork, settings: Sequence[Setting], split: SplitLogits
) -> Iterator[tuple[Floats, Floats]]:
    """For each setting whether each image is right, and its share of the classic network's FLOPs."""
    for policy, read in settings:
        walk = replay(read(split), policy)
        cost = network.costs_of(policy).per_sample(walk, "flops") / network.costs.classic("flops")
        yield (walk.predictions == split.labels).astype(np.float64), cost


def table_of(curves: Sequence[Curve], test: SplitLogits, draws: int) -> list[dict[str, object]]:
    """One row for each family."""
    classic = (test.logits[:, -1].argmax(axis=1) == test.labels).astype(np.float64)
    images = len(classic)
    random = np.random.default_rng(0)
    weights = [np.full(images, 1 / images)]
    weights += [random.multinomial(images, weights[0]) / images for _ in range(draws)]
    drawn = np.array(weights)
    matched = {}
    for one in curves:
        losses, costs = drawn @ (classic - one.right).T, drawn @ one.cost.T
        matched[one.name] = np.array(
            [matched_costs(cost, loss, LOSSES) for cost, loss in zip(costs, losses, strict=True)]
        )
    rows: list[dict[str, object]] = []
    for one in curves:
        row: dict[str, object] = {"family": one.name, "seconds": one.seconds}
        row["loss, points"] = None if one.chosen is None else 100 * float((classic - one.right[one.chosen]).mean())
        row["FLOPs"] = None if one.chosen is None else float(one.cost[one.chosen].mean())
        for place, loss in enumerate(LOSSES):
            own = matched[one.name][:, place]
            low, high = np.quantile(own[1:], [0.025, 0.975])
            row[f"at {100 * loss:g}"] = f"{own[0]:.3f} ({low:.3f}-{high:.3f})"
        ratio = matched[OURS][:, LOSSES.index(BOUND)] / matched[one.name][:, LOSSES.index(BOUND)]
        low, high = np.quantile(ratio[1:], [0.025, 0.975])
        row[f"{OURS} / it, at 1"] = f"{ratio[0]:.3f} ({low:.3f}-{high:.3f})"
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
