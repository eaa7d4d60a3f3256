"""The tables of a study: explicit schemas, one folder of parquet files each.

Units stand in the column names, or in the field's metadata (``unit``). Costs are means per image; accuracies are shares
from 0 to 1. Every row with a metric says on which ``split`` it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa


class TableError(ValueError):
    """A table is missing or cannot be read; the message is one line."""


def _fields(kind: Any, unit: str | None, names: str) -> dict[str, Any]:
    """Column -> field, for columns of one type and one unit."""
    return {name: pa.field(name, kind, metadata={"unit": unit} if unit else None) for name in names.split()}


_FIELDS = {
    **_fields(
        pa.string(),
        None,
        """trial_id phase data parent status error backbone head mode settings device split weights_hash data_digest
        code_version code_digest checkpoint provenance study versions policy criterion overshoot statistic precision
        int8_execution dvfs energy_source latency_source seconds_source constraints part search state sampler params
        distributions test_digest rule""",
    ),
    **_fields(
        pa.int64(),
        None,
        "seed threads epochs_done best_epoch epoch point exit number repeat_of start_layer max_jump",
    ),
    **_fields(pa.int64(), "images", "batch_size samples test_samples certified_samples"),
    **_fields(pa.bool_(), None, "feasible recommended"),
    **_fields(pa.list_(pa.int64()), None, "exits"),
    **_fields(pa.list_(pa.float64()), None, "betas exit_accuracies"),
    **_fields(
        pa.float64(),
        None,
        """width learning_rate train_loss validation_loss beta beta_low beta_high beta_quantile mean_exit mean_heads_run
        threshold parameters price""",
    ),
    # Shares.
    **_fields(
        pa.float64(),
        None,
        """score accuracy classifier_accuracy mean_exit_accuracy classic_accuracy share_stopped accuracy_stopped
        accuracy_all balanced_accuracy classifier_balanced_accuracy balanced_accuracy_all test_balanced_accuracy
        test_accuracy test_accuracy_low test_accuracy_high test_classic_accuracy optimism hypervolume
        hypervolume_ratio test_hypervolume certified_drop certified_confidence""",
    ),
    **_fields(pa.float64(), "share of the classic network's time", "dvfs_slack dvfs_smallest_slack"),
    **_fields(
        pa.float64(),
        "2 x multiply-accumulates per image",
        """flops flops_published classic_flops cumulative_flops cumulative_flops_published
        test_flops test_flops_low test_flops_high""",
    ),
    **_fields(
        pa.float64(),
        "multiply-accumulates x bits of both operands, per image",
        "bitops cumulative_bitops test_bitops",
    ),
    **_fields(
        pa.float64(),
        "J per image",
        """energy_joules classic_energy_joules cumulative_energy_joules
        test_energy_joules test_energy_joules_low test_energy_joules_high""",
    ),
    **_fields(
        pa.float64(),
        "s per image",
        """latency_mean_seconds latency_p50_seconds latency_p99_seconds classic_latency_seconds cumulative_seconds
        test_latency_mean_seconds test_latency_p50_seconds test_latency_p99_seconds""",
    ),
    **_fields(pa.float64(), "bytes", "memory_bytes peak_activation_bytes"),
}
_OF_TRIALS, _OF_PARTS = (_fields(pa.float64(), unit, "seconds") for unit in ("s", "s per image"))
"""The columns ``seconds`` of phase 1, and of the parts of a network."""

_SETTINGS = """policy criterion beta beta_low beta_high betas beta_quantile start_layer exits max_jump overshoot price
    rule statistic precision int8_execution batch_size dvfs dvfs_slack"""
_METRICS = """split samples accuracy balanced_accuracy flops bitops energy_joules energy_source latency_mean_seconds
    latency_p50_seconds latency_p99_seconds latency_source device memory_bytes dvfs_smallest_slack mean_exit
    mean_heads_run classic_accuracy classic_flops classic_energy_joules classic_latency_seconds"""
_CONSTRAINTS = "feasible constraints"

SETTINGS: tuple[str, ...] = tuple(_SETTINGS.split())
"""Columns of ``operating_points`` and ``front`` that say what an operating point is."""
METRICS: tuple[str, ...] = tuple(_METRICS.split())
"""Columns of both tables that say what an operating point is worth, and on which split, device and source."""
CONSTRAINTS: tuple[str, ...] = tuple(_CONSTRAINTS.split())
"""Columns of both tables that say whether an operating point keeps to the constraints of the study."""


def _schema(names: str, seconds: Mapping[str, Any] = _OF_TRIALS) -> Any:
    return pa.schema([{**_FIELDS, **seconds}[name] for name in names.split()])


ADDED = frozenset(
    {"balanced_accuracy", "classifier_balanced_accuracy", "balanced_accuracy_all", "test_balanced_accuracy"}
)
"""Columns that older parts lack: they are read as null."""

SCHEMAS: Mapping[str, Any] = {
    # What computed the rows of the other tables, whose column provenance holds the key of a row here: one row for each
    # set of settings, images and versions.
    "provenance": _schema("provenance study seed data_digest code_version code_digest versions"),
    # Phase 1: one row a trial.
    "trials": _schema(
        """trial_id phase data parent status error backbone width head mode settings seed device threads epochs_done
        best_epoch split score classifier_accuracy classifier_balanced_accuracy
        mean_exit_accuracy seconds weights_hash data_digest code_version
        checkpoint provenance"""
    ),
    # Phase 1: learning curves, one row an epoch.
    "epochs": _schema(
        """trial_id phase epoch learning_rate train_loss split validation_loss classifier_accuracy
        classifier_balanced_accuracy exit_accuracies score
        seconds provenance"""
    ),
    # Statistics of each layer: of a network as such (point is null), and under each point of the front.
    "exits": _schema(
        """trial_id data point precision int8_execution split statistic exit threshold share_stopped accuracy_stopped
        accuracy_all balanced_accuracy_all cumulative_flops cumulative_flops_published cumulative_bitops
        cumulative_energy_joules cumulative_seconds parameters peak_activation_bytes memory_bytes provenance"""
    ),
    # Cost of every part of a network: part is segment (number E + 1: the classifier), head or engine_step.
    "costs": _schema(
        """trial_id data precision batch_size part number flops flops_published bitops energy_joules energy_source
        seconds seconds_source device parameters peak_activation_bytes provenance""",
        _OF_PARTS,
    ),
    # Phase 2: one row an Optuna trial.
    "operating_points": _schema(
        f"""number search trial_id data state error repeat_of {_SETTINGS} {_METRICS} {_CONSTRAINTS} sampler hypervolume
        hypervolume_ratio params distributions provenance"""
    ),
    # The non-dominated operating points: chosen on the validation split, reported on the test split.
    "front": _schema(
        f"""number search trial_id data {_SETTINGS} {_METRICS} {_CONSTRAINTS} recommended test_samples test_accuracy
        test_accuracy_low test_accuracy_high test_balanced_accuracy optimism
        test_flops test_flops_low test_flops_high test_bitops
        test_energy_joules test_energy_joules_low test_energy_joules_high test_latency_mean_seconds
        test_latency_p50_seconds test_latency_p99_seconds test_classic_accuracy certified_drop certified_confidence
        certified_samples hypervolume test_hypervolume test_digest provenance"""
    ),
}
