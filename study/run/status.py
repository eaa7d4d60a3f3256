"""The state of a study, from the files of its run folder: what is done, running, failed and left, and for how long."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from results.parts import part_count, read_or_empty, read_table, rows_of
from results.schemas import SCHEMAS
from results.storage.paths import Location
from search_spaces.settings import HEAD_MODES
from search_spaces.spec import ResourcesSpec, validate_space
from study.arrays import core_count
from study.checkpoints.description import WeightsId, is_trial_id, read_description
from study.errors import UserError
from study.execution.failures import FailureLog
from study.run.folder import STUDY_FILE, stored_study_file, without_free_keys
from study.run.trials import StudyTrials, draw_trials, epochs_of, planned_trials
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
    """A row for each trial that was started, or failed before its first epoch; ``stored``: from ``study.yaml``."""
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


@dataclass(frozen=True, kw_only=True)
class PhaseOutline:
    """One half of phase 1 on one data set."""

    data: str
    phase: str
    trials: int
    """The number of trials that the study asks for."""
    started: int
    failed: int
    epochs: int
    """The epochs of all trials under the scheduler, at most: patience may end trials earlier."""
    epochs_done: int
    seconds_per_epoch: float | None
    """The median over the measured trials; None before the first epoch."""

    @property
    def epochs_left(self) -> int:
        """The largest number of epochs that may be left."""
        return max(0, self.epochs - self.epochs_done)

    @property
    def seconds_left(self) -> float | None:
        """The seconds that the trials need one after the other; None where no epoch was measured."""
        if not self.epochs_left:
            return 0.0
        return None if self.seconds_per_epoch is None else self.epochs_left * self.seconds_per_epoch

    def plain(self) -> dict[str, Any]:
        """The outline as values that JSON can hold."""
        return {**asdict(self), "epochs_left": self.epochs_left, "seconds_left": self.seconds_left}


def outline(
    drawn: StudyTrials,
    names: Sequence[str],
    trials: Sequence[Mapping[str, Any]],
    measured: Mapping[tuple[str, str], float] | None = None,
) -> list[PhaseOutline]:
    """The halves of phase 1 on each data set.

    ``trials`` were started: ``data``, ``mode``, ``status``, ``epochs``, ``seconds``. ``measured``: (data, phase) ->
    seconds of an epoch, used where no trial has a measured epoch.
    """
    phases = []
    for data in names:
        backbones = len(drawn.backbones.plans)
        exits = min(drawn.backbones.keep, backbones) * len(drawn.exits.plans)
        for phase, half, count in (("backbones", drawn.backbones, backbones), ("exits", drawn.exits, exits)):
            own = [one for one in trials if one["data"] == data and (one["mode"] in HEAD_MODES) == (phase == "exits")]
            seconds = [one["seconds"] / one["epochs"] for one in own if one["epochs"] and one["seconds"]]
            pretrained = phase == "backbones" and drawn.pretrained
            phases.append(
                PhaseOutline(
                    data=data,
                    phase=phase,
                    trials=count,
                    started=len(own),
                    failed=sum(one["status"] == "failed" for one in own),
                    epochs=0 if pretrained else epochs_of(half.section, count, keep=half.keep),
                    epochs_done=sum(one["epochs"] for one in own),
                    seconds_per_epoch=(statistics.median(seconds) if seconds else (measured or {}).get((data, phase))),
                )
            )
    return phases


def slots_here(resources: ResourcesSpec) -> int:
    """How many trials run at once on this machine."""
    fitting = core_count() // resources.cpus_per_trial
    if resources.gpus_per_trial:
        import torch  # the import is slow, and a study on CPUs does not need torch here

        fitting = min(fitting, torch.cuda.device_count() // resources.gpus_per_trial)
    return max(1, int(fitting))


def seconds_left(phases: Sequence[PhaseOutline], slots: int) -> float | None:
    """The seconds left of phase 1 with ``slots`` trials at once; None where a phase with work left was never measured.

    Traces, the search and the front are left out: they take seconds to minutes.
    """
    parts = [phase.seconds_left for phase in phases]
    if any(part is None for part in parts):
        return None
    total = 0.0
    for phase, part in zip(phases, parts, strict=True):
        total += (part or 0.0) / max(1, min(slots, phase.trials))
    return total


def span(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{math.ceil(seconds)} s"
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes / 60:.1f} h"


def outline_lines(phases: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each stage of phase 1: what is done, and what is left."""
    return [
        f"{one['phase']} on {one['data']}: {one['started']} of {one['trials']} trials started, {one['failed']} failed; "
        f"{one['epochs_done']} epochs done, {one['epochs_left']} left"
        + (f" at about {_epoch_span(one['seconds_per_epoch'])} each" if one["seconds_per_epoch"] else "")
        for one in phases
    ]


def _epoch_span(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 100 else span(seconds)
