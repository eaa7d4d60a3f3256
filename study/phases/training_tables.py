"""Phase 1's tables, written anew from the checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from results.tables import SCHEMAS, write_part
from study.learning_curves import best_epoch
from study.phases.training import TrialRecord, rank_records


def write_trials(tables: Path, records: Sequence[TrialRecord]) -> None:
    """Write the tables ``trials`` and ``epochs``."""
    write_part(tables, "trials", [_trial_row(record) for record in rank_records(records)])
    write_part(tables, "epochs", [row for record in rank_records(records) for row in _epoch_rows(record)])


def _trial_row(record: TrialRecord) -> dict[str, Any]:
    plan, checkpoint = record.plan, record.checkpoint
    row: dict[str, Any] = {
        "trial_id": plan.trial_id,
        "phase": plan.phase,
        "parent": plan.parent,
        "status": record.status,
        "error": record.error,
        "backbone": plan.network.backbone,
        "width": plan.network.width,
        "head": plan.network.head.kind if plan.phase == "exits" else None,
        "mode": plan.training.mode,
        "settings": json.dumps({"network": asdict(plan.network), "training": asdict(plan.training)}),
        "seed": plan.training.seed,
        "data_digest": plan.data_digest,
        "checkpoint": f"checkpoints/{plan.trial_id}",
    }
    if checkpoint:
        best = best_epoch(checkpoint.history)
        row |= {
            "epochs_done": checkpoint.history[-1].epoch,
            "best_epoch": best.epoch,
            "split": "validation",
            "score": best.score,
            "classifier_accuracy": best.classifier_accuracy,
            "mean_exit_accuracy": sum(best.exit_accuracies) / len(best.exit_accuracies)
            if best.exit_accuracies
            else None,
            "seconds": sum(epoch.seconds for epoch in checkpoint.history),
            "weights_hash": record.weights.partition("@")[2] if record.weights else None,
            "code_version": checkpoint.versions["predictive-exit"],
        }
    return row


def _epoch_rows(record: TrialRecord) -> list[dict[str, Any]]:
    names = set(SCHEMAS["epochs"].names)
    history = record.checkpoint.history if record.checkpoint else ()
    return [
        {
            "trial_id": record.plan.trial_id,
            "phase": record.plan.phase,
            "split": "validation",
            **{name: value for name, value in asdict(epoch).items() if name in names},
        }
        for epoch in history
    ]
