"""The end of a study: the non-dominated operating points, chosen on validation, evaluated once on the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from results.intervals import wilson_interval
from results.pareto import non_dominated
from results.tables import SCHEMAS, rows_of
from study.layer_statistics import exit_statistics
from study.phases.candidates import Candidate
from study.phases.operating_points import COLUMNS, point_of
from study.policies import Classic, Statistic
from study.stored_traces import SplitLogits
from study.walks import replay

STATISTICS: tuple[Statistic, ...] = ("mean_logit", "mean_max")


def front_of(points: pd.DataFrame, objectives: Sequence[str]) -> pd.DataFrame:
    """The rows of ``operating_points`` that no other row dominates on validation, cheapest first.

    Rows of failed trials and repeats are left out. Of points that are equal in every objective the first is kept.
    """
    columns = [COLUMNS[objective] for objective in objectives]
    done = points[(points["state"] == "COMPLETE") & points["repeat_of"].isna()]
    done = done.sort_values(["search", "number"]).drop_duplicates(subset=columns)
    values = done[columns].to_numpy(dtype=np.float64)
    values = values * np.array([-1.0 if objective == "accuracy" else 1.0 for objective in objectives])
    costs = [column for column in columns if column != "accuracy"]
    return done[non_dominated(values)].sort_values([*costs, "accuracy"], ignore_index=True)


def front_on_test(
    front: pd.DataFrame, candidates: Sequence[Candidate], test_logits: Callable[[str], SplitLogits], test_digest: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Replay the points of a front on the test split.

    Args:
        front: from :func:`front_of`.
        candidates: the networks of its points.
        test_logits: trial id -> the network's test trace.
        test_digest: names the test images.

    Returns:
        Rows of the tables ``front`` and ``exits``. Accuracies come with their 95 % Wilson interval.
    """
    names = set(SCHEMAS["front"].names)
    rows, exit_rows = [], []
    for stored in rows_of(front):
        point = point_of(stored, candidates)
        metrics, trace, walk = point.evaluate(test_logits(point.candidate.trial_id))
        low, high = wilson_interval(metrics["accuracy"], metrics["samples"])
        rows.append(
            {
                **{name: value for name, value in stored.items() if name in names},
                "test_samples": metrics["samples"],
                "test_accuracy": metrics["accuracy"],
                "test_accuracy_low": low,
                "test_accuracy_high": high,
                "test_flops": metrics["flops"],
                "test_energy_joules": metrics["energy_joules"],
                "test_classic_accuracy": metrics["classic_accuracy"],
                "test_digest": test_digest,
            }
        )
        statistics = exit_statistics(trace, walk, point.candidate.costs)
        exit_rows += _exit_rows(statistics, point.candidate, "test", point.statistic, stored["number"])
    return rows, exit_rows


def network_exit_rows(candidate: Candidate) -> list[dict[str, Any]]:
    """Rows of the table ``exits`` for a network as such: no policy stops anybody."""
    rows = []
    for statistic in STATISTICS:
        trace = candidate.trace(statistic)
        statistics = exit_statistics(trace, replay(trace, Classic()), candidate.costs)
        statistics[["share_stopped", "accuracy_stopped"]] = np.nan
        rows += _exit_rows(statistics, candidate, "validation", statistic, None)
    return rows


def _exit_rows(
    statistics: pd.DataFrame, candidate: Candidate, split: str, statistic: str, point: int | None
) -> list[dict[str, Any]]:
    segments, heads, _ = candidate.costs.parts("energy")
    known: Mapping[str, Any] = {
        "trial_id": candidate.trial_id,
        "point": point,
        "precision": "fp32",
        "split": split,
        "statistic": statistic,
    }
    statistics = statistics.assign(cumulative_energy_joules=segments.cumsum() + np.append(heads, 0.0))
    return [{**row, **known} for row in rows_of(statistics)]


def cost_rows(candidate: Candidate, batch_size: int) -> list[dict[str, Any]]:
    """Rows of the table ``costs``."""
    costs = candidate.costs
    flops, energy = costs.parts("flops"), costs.parts("energy")
    parts = [
        *(("segment", number, flops[0][number - 1], energy[0][number - 1]) for number in range(1, len(flops[0]) + 1)),
        *(("head", number, flops[1][number - 1], energy[1][number - 1]) for number in range(1, len(flops[1]) + 1)),
        ("engine_step", 1, flops[2], energy[2]),
    ]
    return [
        {
            "trial_id": candidate.trial_id,
            "precision": "fp32",
            "batch_size": batch_size,
            "part": part,
            "number": number,
            "flops": float(part_flops),
            "energy_joules": float(part_energy),
            "energy_source": costs.energy_source,
        }
        for part, number, part_flops, part_energy in parts
    ]
