"""The state of a study, from the files of its run folder: what is done, running, failed and left."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from results.parts import part_count, read_or_empty, read_table, rows_of
from results.schemas import SCHEMAS
from results.storage.paths import Location
from search_spaces.settings import HEAD_MODES
from search_spaces.spec import validate_space
from study.checkpoints.description import WeightsId, is_trial_id, read_description
from study.errors import UserError
from study.execution.failures import FailureLog
from study.run.folder import STUDY_FILE, stored_study_file, without_free_keys
from study.run.progress_estimate import outline, seconds_left, slots_here
from study.run.trials import draw_trials, planned_trials
from study.storage.locks import is_held
from study.training.learning_curves import best_epoch


def study_status(folder: Location) -> dict[str, Any]:
    """The state of a study, from the files of its run folder.

    Raises:
        UserError, SpecError, TableError: the study or a table cannot be read.
    """
    stored = stored_study_file(folder)
    spec = validate_space(stored["study"], str(folder / STUDY_FILE))
    trials, names = trial_statuses(folder, stored), list(_digests(stored))
    tables = folder / "tables"
    present = [name for name in SCHEMAS if part_count(tables, name)]
    known = {row["trial_id"]: row for row in rows_of(read_or_empty(tables, "trials"))}
    for trial in trials:
        if trial["trial_id"] in known and trial["status"] == "under way":
            trial |= {name: known[trial["trial_id"]][name] for name in ("status", "error")}
    exact = spec.operating_points.search == "exact"
    points = read_or_empty(tables, "operating_points")
    done = points[points["state"] == "COMPLETE"]
    drawn = draw_trials(spec)
    own: Sequence[Mapping[str, Any]] = trials
    if stored["provenance"].get("extended"):  # a study that has grown may have left trials that it does not ask for
        own = planned_trials(drawn, _digests(stored), trials)
    phases = outline(drawn, spec.data.names, own)
    return {
        "study": spec.name,
        "created": stored["provenance"].get("created"),
        "versions": stored["provenance"].get("versions"),
        "driver_running": is_held(folder / ".lock"),
        "trials": trials,
        "phases": [phase.plain() for phase in phases],
        "seconds_left": seconds_left(phases, slots_here(spec.resources)),
        "operating_points": len(points),
        "operating_points_failed": int((points["state"] == "FAIL").sum()),
        "asked": {
            "backbones": spec.backbones.trials,
            "exits for each of the best backbones": spec.exits.trials,
            "parents": spec.exits.parents,
            "operating_points for each search": "all of the exact front" if exact else spec.operating_points.trials,
        },
        "tables": present,
        "constraints_kept": not len(done) or bool(done["feasible"].eq(True).any()),
        "finished": set(present) == set(SCHEMAS)
        # The front is written last, and again by each start that changes anything.
        and _fronts(tables, spec.plain()) >= set(names),
        "failed": sum(trial["status"] == "failed" for trial in own),
    }


def _fronts(tables: Location, study: dict[str, Any]) -> set[str]:
    """The data sets with a front of the study as it stands, and not of a smaller study. A front is written last."""
    front, provenance = read_table(tables, "front"), read_table(tables, "provenance").set_index("provenance")
    wanted = without_free_keys(study)
    mine = [
        without_free_keys(json.loads(provenance["study"].get(name, "{}"))) == wanted for name in front["provenance"]
    ]
    return set(front.loc[mine, "data"])


def trial_statuses(folder: Location, stored: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each trial that was started, or failed before its first epoch.

    Args:
        folder: run folder.
        stored: its ``study.yaml``.
    """
    if not (folder / "checkpoints").exists() and part_count(folder / "tables", "trials"):
        return [_packed_status(row) for row in rows_of(read_table(folder / "tables", "trials"))]
    failures = FailureLog(folder / "failures.json").read()
    names = {digest: name for name, digest in _digests(stored).items()}
    folders = {path.name: path for path in (folder / "checkpoints").glob("*") if path.is_dir()}
    trials = [_trial_status(path, failures, names) for _, path in sorted(folders.items()) if is_trial_id(path.name)]
    return trials + [
        {
            **_NOT_STARTED,
            **{name: row[name] for name in ("mode", "parent", "error")},
            "data": names.get(str(row["digest"])),
            "trial_id": key,
            "status": "failed",
        }
        for key, row in failures.items()
        if key not in folders
    ]


def _packed_status(row: Mapping[str, Any]) -> dict[str, Any]:
    """A trial of a pack, from the table ``trials``: a pack has no checkpoints."""
    names = ("trial_id", "status", "mode", "data", "parent", "head", "error", "score", "seconds")
    return {
        **{name: row[name] for name in names},
        "weights": WeightsId(row["trial_id"], row["weights_hash"]) if row["weights_hash"] else None,
        "network": f"{row['backbone']} x {row['width']:g}",
        "epochs": row["epochs_done"] or 0,
    }


_NOT_STARTED: dict[str, Any] = {
    **dict.fromkeys(("mode", "data", "parent", "weights", "score", "error")),
    **{"epochs": 0, "seconds": 0.0},
}


def _digests(stored: Mapping[str, Any]) -> dict[str, str]:
    """Data set -> digest of its images, from ``study.yaml``."""
    return dict(stored["provenance"].get("data_digest") or {})


def _trial_status(
    folder: Location, failures: Mapping[str, Mapping[str, str | None]], names: Mapping[str, str]
) -> dict[str, Any]:
    """A trial as its last checkpoint describes it; tensors are not read, so that no torch is imported."""
    row = {**_NOT_STARTED, "trial_id": folder.name, "status": "under way"}
    if is_held(folder.parent.parent / "locks" / f"{folder.name}.lock"):
        row["status"] = "running"
    elif folder.name in failures:
        row |= {"status": "failed", "error": failures[folder.name]["error"]}
    try:
        last, best = read_description(folder / "last"), read_description(folder / "best")
    except UserError as error:
        return {**row, "status": "damaged", "error": str(error)}
    if last is None:
        return row if row["status"] != "under way" else {**row, "status": "no epoch yet"}
    history, mode = last.history, last.training.mode
    score = math.nan if history[-1].diverged else best_epoch(history).score
    return {
        **row,
        "mode": mode,
        "parent": last.parent,
        "weights": WeightsId(folder.name, best.weights_hash) if best else None,
        "data": names.get(last.data.digest, last.data.name),
        "network": f"{last.network.backbone} x {last.network.width:g}",
        "head": last.network.head.kind if mode in HEAD_MODES else None,
        "epochs": history[-1].epoch,
        "seconds": sum(epoch.seconds for epoch in history),
        "score": None if math.isnan(score) else score,
    }
