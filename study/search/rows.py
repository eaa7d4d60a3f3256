"""The rows of the table ``operating_points``: one row for each trial of phase 2."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

TrialState = Literal["COMPLETE", "FAIL"]


class _Columns:
    """Some columns of a row, as the fields of a dataclass."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(field.name for field in fields(cls))  # type: ignore[arg-type]

    def columns(self) -> dict[str, Any]:
        """Column -> value."""
        return dict(vars(self))

    @classmethod
    def from_columns(cls, row: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`columns`; other columns of the row are passed over."""
        return cls(**{name: row.get(name) for name in cls.names()})


@dataclass(frozen=True, kw_only=True)
class PointSettings(_Columns):
    """What an operating point is: its policy, thresholds, precision and frequency rule."""

    policy: str
    criterion: str
    beta: float | None = None
    beta_low: float | None = None
    beta_high: float | None = None
    betas: Sequence[float] | None = None
    beta_quantile: float | None = None
    start_layer: int | None = None
    exits: Sequence[int] | None = None
    max_jump: int | None = None
    overshoot: str | None = None
    statistic: str | None = None
    precision: str
    int8_execution: str | None = None
    dvfs: str
    dvfs_slack: float | None = None


@dataclass(frozen=True, kw_only=True)
class PointMetrics(_Columns):
    """Accuracy and mean costs of an operating point on a split. A cost that no profile holds is None."""

    samples: int
    accuracy: float
    flops: float
    bitops: float | None = None
    energy_joules: float | None = None
    energy_source: str | None = None
    latency_mean_seconds: float | None = None
    latency_p50_seconds: float | None = None
    latency_p99_seconds: float | None = None
    latency_source: str | None = None
    device: str | None = None
    memory_bytes: float | None = None
    dvfs_smallest_slack: float | None = None
    mean_exit: float
    mean_heads_run: float
    classic_accuracy: float
    classic_flops: float
    classic_energy_joules: float | None = None
    classic_latency_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The metrics of a point on validation, and by how much the point exceeds each constraint."""

    metrics: PointMetrics
    exceeded: Mapping[str, float]
    """Constraint -> excess; kept where 0 or below."""

    @property
    def feasible(self) -> bool:
        """Whether the point keeps all constraints."""
        return all(value <= 0 for value in self.exceeded.values())

    def columns(self) -> dict[str, Any]:
        """Column -> value."""
        constraints = {"feasible": self.feasible, "constraints": json.dumps(self.exceeded)}
        return {"split": "validation", **self.metrics.columns(), **constraints}

    @classmethod
    def from_columns(cls, row: Mapping[str, Any]) -> Judged:
        """The inverse of :meth:`columns`."""
        return cls(metrics=PointMetrics.from_columns(row), exceeded=json.loads(row["constraints"]))


@dataclass(frozen=True, kw_only=True)
class OperatingPointRow:
    """One trial of phase 2."""

    number: int
    search: str
    sampler: str
    batch_size: int
    state: TrialState
    error: str | None = None
    """The reason of a failure."""
    trial_id: str | None = None
    """The network; None where no point could be suggested."""
    repeat_of: int | None = None
    """The number of the first trial of the same point."""
    settings: PointSettings | None = None
    """None where no point could be suggested."""
    judged: Judged | None = None
    """None of a failed trial."""
    params: str | None = None
    distributions: str | None = None
    """Optuna's parameters and their distributions, as JSON; None without a sampler."""
    hypervolume: float | None = None
    """Of all feasible points up to the end of this row's batch."""
    hypervolume_ratio: float | None = None
    """Share of the exact front's hypervolume; None where the exact front is not known."""

    def columns(self) -> dict[str, Any]:
        """Column -> value."""
        own = {name: value for name, value in vars(self).items() if name not in ("settings", "judged")}
        groups = [group.columns() for group in (self.settings, self.judged) if group is not None]
        return {**own, **{name: value for group in groups for name, value in group.items()}}

    @classmethod
    def from_columns(cls, row: Mapping[str, Any]) -> OperatingPointRow:
        """The inverse of :meth:`columns`."""
        own = {field.name: row.get(field.name) for field in fields(cls) if field.name not in ("settings", "judged")}
        own["repeat_of"] = None if row.get("repeat_of") is None else int(row["repeat_of"])
        return cls(
            **(own | {"number": int(row["number"])}),  # type: ignore[arg-type]
            settings=None if row.get("policy") is None else PointSettings.from_columns(row),
            judged=Judged.from_columns(row) if row["state"] == "COMPLETE" else None,
        )
