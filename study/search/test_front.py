"""The end of a study: the non-dominated operating points, chosen on validation, evaluated once on the test split."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from results.intervals import mean_interval, wilson_interval
from results.pareto import non_dominated
from results.parts import rows_of
from results.schemas import SCHEMAS
from study.arrays import Floats
from study.costs.costs import MEASURES, Costs, Measure
from study.fronts.exit_statistics import exit_columns
from study.policies.policies import Classic
from study.policies.replay import Walk, replay
from study.policies.thresholds import Statistic
from study.search.hypervolume import HypervolumeIndicator
from study.search.operating_point import COLUMNS, OperatingPoint, point_of
from study.search.traced_network import TracedNetwork
from study.traces.trace import SplitLogits

STATISTICS: tuple[Statistic, ...] = ("mean_logit", "mean_max")


def front_of(points: pd.DataFrame, objectives: Sequence[str]) -> pd.DataFrame:
    """The non-dominated rows of ``operating_points`` on validation, cheapest first.

    Failed trials, repeats and points that break a constraint are left out. Of points that are equal in every objective
    the first point is kept.
    """
    columns = [COLUMNS[objective] for objective in objectives]
    done = points[(points["state"] == "COMPLETE") & points["repeat_of"].isna() & points["feasible"].eq(True)]
    done = done.sort_values(["search", "number"]).drop_duplicates(subset=columns)
    costs = [column for column in columns if column != "accuracy"]
    on_front = non_dominated(
        done[columns].to_numpy(dtype=np.float64), maximize=[column == "accuracy" for column in columns]
    )
    return done[on_front].sort_values([*costs, "accuracy"], ignore_index=True)


def why_no_front(points: pd.DataFrame) -> str:
    """Why the front of some rows of ``operating_points`` is empty, in one line.

    Where every point breaks a constraint, the line names the constraint that the nearest point exceeds most.
    """
    if points.empty:
        return "no operating point of the exact front keeps the constraints; loosen them under another --name"
    done = points[(points["state"] == "COMPLETE") & points["repeat_of"].isna()]
    if done.empty:
        return f"no operating point could be evaluated: {points['error'].iloc[0]}"
    exceeded = done["constraints"].map(json.loads)
    nearest = min(exceeded, key=lambda values: max(values.values()))
    name = max(nearest, key=nearest.get)
    unit = "of all images" if name == "accuracy_drop" else "times the limit"
    return (
        f"none of {len(exceeded)} operating points keeps the constraints; the nearest exceeds {name} by "
        f"{nearest[name]:.3g} {unit}; loosen it under another --name"
    )


def front_on_test(
    front: pd.DataFrame,
    networks: Sequence[TracedNetwork],
    objectives: Sequence[str],
    test_logits: Callable[[TracedNetwork], SplitLogits],
    test_digest: str,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Replay the points of a front on the test split.

    Args:
        front: from :func:`front_of`.
        networks: the networks of its points.
        objectives: of the front.
        test_logits: the test trace of a network.
        test_digest: names the test images.

    Returns:
        Rows of the tables ``front`` and ``exits``. Accuracies, FLOPs and energies come with 95 % intervals.
    """
    names = set(SCHEMAS["front"].names) - {"hypervolume"}  # the one in operating_points is that of the search
    rows: list[dict[str, Any]] = []
    exit_rows: list[dict[str, Any]] = []
    for stored in rows_of(front):
        point = point_of(stored, networks)
        split = test_logits(point.network)
        metrics, trace = point.evaluate(split), point.network.trace(point.statistic, split)
        walk = replay(trace, point.policy)
        rows.append(
            {
                **{name: value for name, value in stored.items() if name in names},
                **{f"test_{name}": value for name, value in metrics.items() if f"test_{name}" in names},
                "optimism": stored["accuracy"] - metrics["accuracy"],
                **_intervals(point, walk, metrics["accuracy"]),
                "test_digest": test_digest,
            }
        )
        columns = exit_columns(trace, walk, point.network.costs)
        exit_rows += _exit_rows(columns, point.network, "test", point.statistic, stored["number"])
    indicator = HypervolumeIndicator.of(objectives, networks)
    volumes = {f"{split}hypervolume": indicator.hypervolume(rows, prefix=split) for split in ("", "test_")}
    return [{**row, **volumes} for row in rows], exit_rows


def _intervals(point: OperatingPoint, walk: Walk, accuracy: float) -> dict[str, float]:
    """The columns of the 95 % intervals of a walk on test: Wilson's for the accuracy, Student's for mean costs."""
    costs = {"flops": point.network.costs_of(point.policy).per_sample(walk, "flops")}
    _, joules, _ = point.of_samples(walk)
    if joules is not None:
        costs["energy_joules"] = joules
    low, high = wilson_interval(accuracy, len(walk.predictions))
    columns = {"test_accuracy_low": low, "test_accuracy_high": high}
    ends = mean_interval(np.column_stack(list(costs.values())))
    for name, low, high in zip(costs, *ends, strict=True):
        columns |= {f"test_{name}_low": float(low), f"test_{name}_high": float(high)}
    return columns


def network_exit_rows(network: TracedNetwork) -> list[dict[str, Any]]:
    """Rows of the table ``exits`` for a network without a policy; the columns of stopped samples are None."""
    rows = []
    for statistic in STATISTICS:
        trace = network.trace(statistic)
        columns = exit_columns(trace, replay(trace, Classic()), network.costs)
        nobody = np.full(network.exit_count + 1, np.nan)
        columns |= {"share_stopped": nobody, "accuracy_stopped": nobody}
        rows += _exit_rows(columns, network, "validation", statistic, None)
    return rows


def _exit_rows(
    columns: Mapping[str, NDArray[Any]], network: TracedNetwork, split: str, statistic: str | None, point: int | None
) -> list[dict[str, Any]]:
    """Statistics of each layer with the costs of the network cut at each exit; unknown costs are left out."""
    table = pd.DataFrame(dict(columns))
    for measure, name in _columns_of_measures(network.costs).items():
        table[f"cumulative_{name}"] = network.costs.of_cuts(measure)
    if network.published is not None:
        segments, heads = network.published
        table["cumulative_flops_published"] = segments.cumsum() + np.append(heads, 0.0)
    if network.costs.holds("energy"):
        table["cumulative_energy_joules"] = network.cut_energies
    if network.work is not None and network.memory is not None:
        table["parameters"] = network.work.parameters_at_exits
        table["peak_activation_bytes"] = network.memory.maps_of_cuts()
        table["memory_bytes"] = network.memory.of_cuts()
    if statistic is None:  # the policy of the point reads no thresholds
        table["threshold"] = np.nan
    known = {
        "trial_id": network.trial_id,
        "point": point,
        "precision": network.precision,
        "int8_execution": network.validation.int8_execution,
        "split": split,
        "statistic": statistic,
    }
    return [row | known for row in rows_of(table)]


def _columns_of_measures(costs: Costs) -> dict[Measure, str]:
    """The measures that costs hold, and how columns call them."""
    return {measure: measure.replace("energy", "energy_joules") for measure in MEASURES if costs.holds(measure)}


def _costs_of_parts(network: TracedNetwork) -> dict[str, tuple[Floats, Floats, float]]:
    """Costs of segments ``[E+1]``, of heads ``[E]`` and of a step of the engine; unknown costs are left out."""
    parts = {name: network.costs.parts(measure) for measure, name in _columns_of_measures(network.costs).items()}
    if network.published is not None:
        parts["flops_published"] = (*network.published, 0.0)
    return parts


def cost_rows(network: TracedNetwork) -> list[dict[str, Any]]:
    """Rows of the table ``costs``."""
    costs, work, exits = network.costs, network.work, network.exit_count
    parts = _costs_of_parts(network)
    if work is not None and network.memory is not None:
        segments, heads = (np.array([part.parameters for part in group]) for group in (work.segments, work.heads))
        parts["parameters"] = (segments, heads, 0.0)
        parts["peak_activation_bytes"] = (network.memory.segment_maps, network.memory.head_maps, 0.0)
    table = pd.DataFrame({name: np.concatenate([*arrays, [step]]) for name, (*arrays, step) in parts.items()})
    table["part"] = ["segment"] * (exits + 1) + ["head"] * exits + ["engine_step"]
    table["number"] = [*range(1, exits + 2), *range(1, exits + 1), 1]
    known = {
        "trial_id": network.trial_id,
        "precision": network.precision,
        "batch_size": costs.batch_size,
        "energy_source": costs.energy_source,
        "seconds_source": costs.seconds_source,
        "device": costs.device,
    }
    return [row | known for row in rows_of(table)]
