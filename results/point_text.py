"""Operating points in words: the policy and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SETTINGS = {
    "price": "price {:.4g}",
    "beta": "beta {:.4g}",
    "start_layer": "from {:.0f}",
    "max_jump": "jump {:.0f}",
    "overshoot": "to {}",
    "statistic": "{}",
}


def policy_text(row: Mapping[str, Any]) -> str:
    """The policy of an operating point, and its exit criterion if it could have another one than the paper's."""
    own = row["criterion"] == "logit" or row["policy"] == "optimal_stopping"
    return row["policy"] if own else f"{row['policy']}, {row['criterion']}"


def setting_text(row: Mapping[str, Any]) -> str:
    """The settings of an operating point in short; a setting without effect is left out."""
    fitted = row.get("price") is not None  # the price tells which one; its exits may be many
    listed = row["exits"] is not None and not fitted
    parts = [" ".join(["exits", *(str(int(exit)) for exit in row["exits"])])] if listed else []
    parts += [form.format(row[name]) for name, form in _SETTINGS.items() if row.get(name) is not None]
    return ", ".join(parts if row.get("dvfs") in (None, "none") else [*parts, row["dvfs"]])
