"""A point of a stored front with all that its export needs: network, policy, thresholds, costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from results.parts import of_data, read_table, rows_of
from results.storage.paths import Location
from study.arrays import Floats
from study.checkpoints.description import Checkpoint
from study.checkpoints.pretrained import build_pretrained, load_pretrained
from study.costs.costs import Costs
from study.errors import UserError
from study.networks.multi_exit import MultiExitNetwork
from study.networks.precisions import Precision
from study.policies.base import Policy
from study.run.reader import stored_networks, stored_study
from study.run.stored_front import stored_summary
from study.search.operating_point import point_of
from study.search.traced_network import reference_network
from study.storage.publish import MANIFEST, safe_name


@dataclass(frozen=True)
class ChosenPoint:
    """A point of a front."""

    folder: Path
    row: Mapping[str, Any]
    """Of the table ``front``."""
    reason: str | None
    """Why it is recommended; None for another point."""
    policy: Policy
    thresholds: Floats
    """``[E]``, from the calibration split."""
    costs: Costs
    """Of the network's parts, each head with the operations of the policy's decision."""
    reference: Mapping[str, Any]
    """Of the study's classic network: ``trial_id``, ``precision``, ``accuracy`` on validation, ``flops`` and
    ``latency_seconds``, which is None where it is not known."""
    checkpoint: Checkpoint
    network: MultiExitNetwork
    """In fp32, on the CPU."""

    @property
    def precision(self) -> Precision:
        """Of the point."""
        return cast(Precision, self.row["precision"])


def front_row(folder: Location, number: str, data: str | None) -> Mapping[str, Any]:
    """The row of a point of the front by its number.

    Raises:
        UserError: the front has no such point, or several.
        TableError: the study has no front.
    """
    front = of_data(read_table(folder / "tables", "front"), data)
    found = [row for row in rows_of(front) if str(row["number"]) == number]
    if not found:
        there = ", ".join(map(str, front["number"].head(10))) + (", ..." if len(front) > 10 else "")
        raise UserError(f"the front of {folder} has no point {number}; its points are {there}")
    if len(found) > 1:
        raise UserError(f"several points of {folder} have the number {number}: name the data set with --data")
    return found[0]


def checkpoint_folder(folder: Location, trial_id: str) -> Path:
    """The best checkpoint of a trial.

    Raises:
        UserError: the run folder is not on this machine, or holds no weights of the trial.
    """
    best = _own(folder) / "checkpoints" / safe_name(trial_id, "trial") / "best"
    if not (best / MANIFEST).is_file():
        raise UserError(f"{best} holds no checkpoint: a copy of a study has no weights")
    return best


def _own(folder: Location) -> Path:
    if not isinstance(folder, Path):
        raise UserError(f"a run folder on this machine is needed: copy {folder} first")
    return folder


def choose_point(folder: Location, number: str | None, data: str | None, *, cost: str = "flops") -> ChosenPoint:
    """A point of the front of a finished study: the one of a number, or else the one that is recommended by a cost.

    Raises:
        UserError: there is no such point, or no checkpoint of its network.
        TableError: the study has no front.
    """
    if cost == "seconds" and not any(_own(folder).glob("checkpoints/*/best")):  # told before a long measurement
        raise UserError(f"{folder} holds no checkpoint: a copy of a study has no weights")
    summary = stored_summary(folder, data=data, cost=cost)
    recommended = next(iter(rows_of(pd.DataFrame([summary.recommended]))))
    row = recommended if number is None else front_row(folder, number, data)
    best = checkpoint_folder(folder, row["trial_id"])
    networks = stored_networks(folder, stored_study(folder).operating_points, data)
    point = point_of(row, networks)
    checkpoint, tensors = load_pretrained(best)
    assert checkpoint is not None, "a folder gives a checkpoint"
    if checkpoint.weights_hash != point.network.weights.digest:
        raise UserError(f"{best} holds other weights than the traces of the front: give `run` again")
    reference, seconds = reference_network(networks), summary.reference.latency_seconds
    return ChosenPoint(
        folder=cast(Path, folder),
        row=row,
        reason=summary.reason if str(row["number"]) == str(recommended["number"]) else None,
        policy=point.policy,
        thresholds=point.network.trace(point.statistic).thresholds,
        costs=point.network.costs_of(point.policy),
        reference={
            "trial_id": reference.trial_id,
            "precision": reference.precision,
            "accuracy": reference.classic_accuracy,
            "flops": reference.costs.classic("flops"),
            "latency_seconds": None if np.isnan(seconds) else seconds,
        },
        checkpoint=checkpoint,
        network=build_pretrained(best, checkpoint, tensors, torch.device("cpu")),
    )
