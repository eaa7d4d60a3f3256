"""The tables of phase 1, written from the checkpoints, and the table ``provenance``, which every row names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from results.parts import write_part
from results.schemas import SCHEMAS
from results.storage.paths import Location
from study.checkpoints.description import Checkpoint
from study.execution.trial_record import TrialRecord, rank_records
from study.run.folder import without_free_keys
from study.storage.publish import content_hash
from study.storage.strict_json import dumps
from study.storage.versions import versions
from study.training.learning_curves import best_epoch

_MACHINE = ("device", "threads")
"""Columns of the table ``trials``; in the table ``provenance`` they would double the rows."""


@dataclass(frozen=True)
class Provenance:
    """The settings and images of a study, and the names of provenance that follow for some versions."""

    study: dict[str, Any]
    data_digest: str

    @cached_property
    def _study(self) -> str:
        return dumps(without_free_keys(self.study))

    def row(self, made_by: Mapping[str, str]) -> dict[str, Any]:
        """The row of the table ``provenance`` for some versions."""
        made_by = {name: value for name, value in made_by.items() if name not in _MACHINE}
        values = {
            "study": self._study,
            "seed": self.study["seed"],
            "data_digest": self.data_digest,
            "code_version": made_by["predictive-exit"],
            "code_digest": made_by.get("code"),
            "versions": dumps(dict(made_by)),
        }
        return {"provenance": content_hash(values), **values}

    def name(self, made_by: Mapping[str, str] | None = None) -> str:
        """The name that the rows of other tables carry; by default for the versions that run now."""
        return str(self.row(versions() if made_by is None else made_by)["provenance"])

    def record(self, tables: Location, all_versions: Iterable[Mapping[str, str]] = ()) -> None:
        """Write the rows of the versions that run now, and of other versions that computed trials."""
        for made_by in (versions(), *all_versions):
            row = self.row(made_by)
            write_part(tables, "provenance", [row], row["provenance"])


def write_trials(
    tables: Location, records: Sequence[TrialRecord], provenance: Provenance, *, data: str, part: int | str = 0
) -> None:
    """Write a part of the tables ``trials`` and ``epochs``, best trials first, and the rows of ``provenance``."""
    ranked = rank_records(records)
    checkpoints = [record.checkpoint for record in ranked if record.checkpoint]
    distinct = {dumps(dict(made_by)): made_by for checkpoint in checkpoints for _, made_by in checkpoint.made_by}
    provenance.record(tables, distinct.values())
    write_part(tables, "trials", [_trial_row(record, provenance, data) for record in ranked], part)
    write_part(tables, "epochs", [row for record in ranked for row in _epoch_rows(record, provenance)], part)


def _trial_row(record: TrialRecord, provenance: Provenance, data: str) -> dict[str, Any]:
    plan, checkpoint = record.plan, record.checkpoint
    row: dict[str, Any] = {
        "trial_id": plan.trial_id,
        "phase": plan.phase,
        "data": data,
        "parent": plan.parent,
        "status": record.status,
        "error": record.error,
        "backbone": plan.network.backbone,
        "width": plan.network.width,
        "head": plan.network.head.kind if plan.phase == "exits" else None,
        "mode": plan.training.mode,
        "settings": dumps({"network": asdict(plan.network), "training": asdict(plan.training)}),
        "seed": plan.training.seed,
        "data_digest": plan.data_digest,
        "checkpoint": f"checkpoints/{plan.trial_id}",
        "provenance": provenance.name(checkpoint.versions if checkpoint else None),
    }
    if checkpoint:
        best = best_epoch(checkpoint.history)
        machine = checkpoint.made_by[-1][1] if checkpoint.made_by else {}
        row |= {
            "device": machine.get("device"),
            "threads": int(machine["threads"]) if "threads" in machine else None,
            "epochs_done": checkpoint.history[-1].epoch,
            "best_epoch": best.epoch,
            "split": "validation",
            "score": best.score,
            "classifier_accuracy": best.classifier_accuracy,
            "mean_exit_accuracy": sum(best.exit_accuracies) / len(best.exit_accuracies)
            if best.exit_accuracies
            else None,
            "seconds": sum(epoch.seconds for epoch in checkpoint.history),
            "weights_hash": record.weights.digest if record.weights else None,
            "code_version": checkpoint.versions["predictive-exit"],
        }
    return row


def _epoch_rows(record: TrialRecord, provenance: Provenance) -> list[dict[str, Any]]:
    names = set(SCHEMAS["epochs"].names)
    checkpoint = record.checkpoint
    if checkpoint is None:
        return []
    return [
        {
            "trial_id": record.plan.trial_id,
            "phase": record.plan.phase,
            "split": "validation",
            **{name: value for name, value in asdict(epoch).items() if name in names},
            "provenance": provenance.name(_versions_at(checkpoint, epoch.epoch)),
        }
        for epoch in checkpoint.history
    ]


def _versions_at(checkpoint: Checkpoint, epoch: int) -> Mapping[str, str]:
    earlier = [made_by for first, made_by in checkpoint.made_by if first <= epoch]
    return earlier[-1] if earlier else checkpoint.versions
