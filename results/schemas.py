"""The tables of a study: explicit schemas, one folder of parquet files each.

Units stand in the column names, or in the field's metadata (``unit``). Costs are means per image; accuracies are shares
from 0 to 1. Every row with a metric says on which ``split`` it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pyarrow as pa

_ID, _TEXT, _INT, _SHARE = pa.string(), pa.string(), pa.int64(), pa.float64()


class TableError(ValueError):
    """A table is missing or cannot be read; the message is one line."""


def _field(name: str, kind: Any, unit: str | None = None) -> Any:
    return pa.field(name, kind, metadata={"unit": unit} if unit else None)


_flops = partial(_field, kind=pa.float64(), unit="2 x multiply-accumulates per image")
_joules = partial(_field, kind=pa.float64(), unit="J per image")
_seconds = partial(_field, kind=pa.float64(), unit="s per image")
_bytes = partial(_field, kind=pa.float64(), unit="bytes")
_bitops = partial(_field, kind=pa.float64(), unit="multiply-accumulates x bits of both operands, per image")

_SETTINGS = [
    _field("policy", _TEXT),
    _field("criterion", _TEXT),
    _field("beta", pa.float64()),
    _field("beta_low", pa.float64()),
    _field("beta_high", pa.float64()),
    _field("betas", pa.list_(pa.float64())),
    _field("beta_quantile", pa.float64()),
    _field("start_layer", _INT),
    _field("exits", pa.list_(_INT)),
    _field("max_jump", _INT),
    _field("overshoot", _TEXT),
    _field("statistic", _TEXT),
    _field("precision", _TEXT),
    _field("int8_execution", _TEXT),
    _field("batch_size", _INT, "images"),
    _field("dvfs", _TEXT),
    _field("dvfs_slack", pa.float64(), "share of the classic network's time"),
]

_METRICS = [
    _field("split", _TEXT),
    _field("samples", _INT, "images"),
    _field("accuracy", _SHARE),
    _flops("flops"),
    _bitops("bitops"),
    _joules("energy_joules"),
    _field("energy_source", _TEXT),
    _seconds("latency_mean_seconds"),
    _seconds("latency_p50_seconds"),
    _seconds("latency_p99_seconds"),
    _field("latency_source", _TEXT),
    _field("device", _TEXT),
    _bytes("memory_bytes"),
    _field("dvfs_smallest_slack", pa.float64(), "share of the classic network's time"),
    _field("mean_exit", pa.float64()),
    _field("mean_heads_run", pa.float64()),
    _field("classic_accuracy", _SHARE),
    _flops("classic_flops"),
    _joules("classic_energy_joules"),
    _seconds("classic_latency_seconds"),
]

_CONSTRAINTS = [
    _field("feasible", pa.bool_()),
    _field("constraints", _TEXT),
]

SETTINGS: tuple[str, ...] = tuple(field.name for field in _SETTINGS)
"""Columns of ``operating_points`` and ``front`` that say what an operating point is."""
METRICS: tuple[str, ...] = tuple(field.name for field in _METRICS)
"""Columns of both tables that say what an operating point is worth, and on which split, device and source."""
CONSTRAINTS: tuple[str, ...] = tuple(field.name for field in _CONSTRAINTS)
"""Columns of both tables that say whether an operating point keeps to the constraints of the study."""

_DATA = _field("data", _TEXT)
"""Name of the data set."""
_PROVENANCE = _field("provenance", _ID)
"""Key of the row of the table ``provenance`` that says what computed a row."""

SCHEMAS: Mapping[str, Any] = {
    # What computed the rows of the other tables: one row for each set of settings, images and versions.
    "provenance": pa.schema(
        [
            _PROVENANCE,
            _field("study", _TEXT),
            _field("seed", _INT),
            _field("data_digest", _ID),
            _field("code_version", _TEXT),
            _field("code_digest", _ID),
            _field("versions", _TEXT),
        ]
    ),
    # Phase 1: one row a trial.
    "trials": pa.schema(
        [
            _field("trial_id", _ID),
            _field("phase", _TEXT),
            _DATA,
            _field("parent", _ID),
            _field("status", _TEXT),
            _field("error", _TEXT),
            _field("backbone", _TEXT),
            _field("width", pa.float64()),
            _field("head", _TEXT),
            _field("mode", _TEXT),
            _field("settings", _TEXT),
            _field("seed", _INT),
            _field("device", _TEXT),
            _field("threads", _INT),
            _field("epochs_done", _INT),
            _field("best_epoch", _INT),
            _field("split", _TEXT),
            _field("score", _SHARE),
            _field("classifier_accuracy", _SHARE),
            _field("mean_exit_accuracy", _SHARE),
            _field("seconds", pa.float64(), "s"),
            _field("weights_hash", _ID),
            _field("data_digest", _ID),
            _field("code_version", _TEXT),
            _field("checkpoint", _TEXT),
            _PROVENANCE,
        ]
    ),
    # Phase 1: learning curves, one row an epoch.
    "epochs": pa.schema(
        [
            _field("trial_id", _ID),
            _field("phase", _TEXT),
            _field("epoch", _INT),
            _field("learning_rate", pa.float64()),
            _field("train_loss", pa.float64()),
            _field("split", _TEXT),
            _field("validation_loss", pa.float64()),
            _field("classifier_accuracy", _SHARE),
            _field("exit_accuracies", pa.list_(pa.float64())),
            _field("score", _SHARE),
            _field("seconds", pa.float64(), "s"),
            _PROVENANCE,
        ]
    ),
    # Statistics of each layer: of a network as such (point is null), and under each point of the front.
    "exits": pa.schema(
        [
            _field("trial_id", _ID),
            _DATA,
            _field("point", _INT),
            _field("precision", _TEXT),
            _field("int8_execution", _TEXT),
            _field("split", _TEXT),
            _field("statistic", _TEXT),
            _field("exit", _INT),
            _field("threshold", pa.float64()),
            _field("share_stopped", _SHARE),
            _field("accuracy_stopped", _SHARE),
            _field("accuracy_all", _SHARE),
            _flops("cumulative_flops"),
            _flops("cumulative_flops_published"),
            _bitops("cumulative_bitops"),
            _joules("cumulative_energy_joules"),
            _seconds("cumulative_seconds"),
            _field("parameters", pa.float64()),
            _bytes("peak_activation_bytes"),
            _bytes("memory_bytes"),
            _PROVENANCE,
        ]
    ),
    # Cost of every part of a network: part is segment (number E + 1: the classifier), head or engine_step.
    "costs": pa.schema(
        [
            _field("trial_id", _ID),
            _DATA,
            _field("precision", _TEXT),
            _field("batch_size", _INT, "images"),
            _field("part", _TEXT),
            _field("number", _INT),
            _flops("flops"),
            _flops("flops_published"),
            _bitops("bitops"),
            _joules("energy_joules"),
            _field("energy_source", _TEXT),
            _seconds("seconds"),
            _field("seconds_source", _TEXT),
            _field("device", _TEXT),
            _field("parameters", pa.float64()),
            _bytes("peak_activation_bytes"),
            _PROVENANCE,
        ]
    ),
    # Phase 2: one row an Optuna trial.
    "operating_points": pa.schema(
        [
            _field("number", _INT),
            _field("search", _TEXT),
            _field("trial_id", _ID),
            _DATA,
            _field("state", _TEXT),
            _field("error", _TEXT),
            _field("repeat_of", _INT),
            *_SETTINGS,
            *_METRICS,
            *_CONSTRAINTS,
            _field("sampler", _TEXT),
            _field("hypervolume", _SHARE),
            _field("hypervolume_ratio", _SHARE),
            _field("params", _TEXT),
            _field("distributions", _TEXT),
            _PROVENANCE,
        ]
    ),
    # The non-dominated operating points: chosen on the validation split, reported on the test split.
    "front": pa.schema(
        [
            _field("number", _INT),
            _field("search", _TEXT),
            _field("trial_id", _ID),
            _DATA,
            *_SETTINGS,
            *_METRICS,
            *_CONSTRAINTS,
            _field("test_samples", _INT, "images"),
            _field("test_accuracy", _SHARE),
            _field("test_accuracy_low", _SHARE),
            _field("test_accuracy_high", _SHARE),
            _field("optimism", _SHARE),
            _flops("test_flops"),
            _flops("test_flops_low"),
            _flops("test_flops_high"),
            _bitops("test_bitops"),
            _joules("test_energy_joules"),
            _joules("test_energy_joules_low"),
            _joules("test_energy_joules_high"),
            _seconds("test_latency_mean_seconds"),
            _seconds("test_latency_p50_seconds"),
            _seconds("test_latency_p99_seconds"),
            _field("test_classic_accuracy", _SHARE),
            _field("hypervolume", _SHARE),
            _field("test_hypervolume", _SHARE),
            _field("test_digest", _ID),
            _PROVENANCE,
        ]
    ),
}
