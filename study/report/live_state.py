"""What a study does now, in words and numbers: the part of a live page that stands above the plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from results.parts import read_or_empty
from results.storage.paths import Location
from search_spaces.settings import HEAD_MODES
from search_spaces.spec import StudySpec, validate_space
from study.execution.failures import FailureLog
from study.run.folder import STUDY_FILE, stored_study_file
from study.run.status import slots_here, span, study_status


@dataclass(frozen=True, kw_only=True)
class LiveState:
    """The state of a study for a reader."""

    now: str
    """What the study does now, a sentence."""
    coming: str = ""
    """What the page will show first; empty where it shows something."""
    facts: Sequence[tuple[str, str]] = ()
    """Names and values."""
    share: float | None = None
    """The share of the present stage that is done, 0 to 1; None where it is not known."""
    errors: Sequence[str] = ()
    """What failed last, a sentence each."""
    problem: str = ""
    """Why the run folder cannot be read now, in one line; empty where it can."""

    def plain(self) -> dict[str, Any]:
        """The state as values that JSON can hold."""
        return asdict(self)


def live_state(folder: Location) -> LiveState:
    """The state of a study, from the files of its run folder.

    Raises:
        UserError, SpecError, TableError, OSError: the study or a table cannot be read.
    """
    status = study_status(folder)
    spec = validate_space(stored_study_file(folder)["study"], str(folder / STUDY_FILE))
    tables = {name: read_or_empty(folder / "tables", name) for name in ("trials", "operating_points", "front")}
    ended = set(zip(tables["trials"]["data"], tables["trials"]["phase"], strict=True))
    stage, share = _stage(status, spec, ended, tables)
    has_epochs = any(one["epochs"] for one in status["trials"])
    return LiveState(
        now=_now(status, stage),
        coming="" if has_epochs or set(status["tables"]) - {"provenance"} else _COMING,
        facts=[
            ("Trials", _trials(status, spec, ended)),
            ("Epochs", _epochs(status["phases"], ended)),
            ("Operating points", _points(status, spec)),
            ("Time left", _time_left(status, spec, ended)),
        ],
        share=share,
        errors=_errors(folder, status, tables["operating_points"]),
    )


_COMING = (
    "There is nothing to plot yet. First come the learning curves, with the first epochs; then the trials of the "
    "backbones, when all backbones of a data set are trained; then those of the exit heads; then the operating points; "
    "the front comes last."
)


def _now(status: Mapping[str, Any], stage: str) -> str:
    failed = status["failed"]
    trials = f"{failed} failed trial{'' if failed == 1 else 's'}"
    if status["driver_running"]:
        return f"Running: {stage}."
    if not status["finished"]:
        return f"Not running, and not finished. The same `run` command goes on with this: {stage}."
    return f"Finished, but for {trials}: the same `run` command tries again." if failed else "Finished."


def _stage(
    status: Mapping[str, Any],
    spec: StudySpec,
    ended: set[tuple[str, str]],
    tables: Mapping[str, pd.DataFrame],
) -> tuple[str, float | None]:
    """The stage of a study in words, and the share of the stage that is done.

    ``ended``: data set and phase of the stages of training that are in the table ``trials``.
    """
    phases = {(one["data"], one["phase"]): one for one in status["phases"]}
    training = [
        (one["data"], "exits" if one["mode"] in HEAD_MODES else "backbones")
        for one in status["trials"]
        if one["status"] == "running" and one["mode"]
    ]
    stages = [one for one in [*training, *(key for key in phases if key not in ended)] if one in phases]
    if stages:
        one = phases[stages[0]]
        share = min(1.0, one["epochs_done"] / one["epochs"]) if one["epochs"] else None
        return f"training {_PHASES[one['phase']]} on {one['data']}", share
    points, with_front = tables["operating_points"], set(tables["front"]["data"])
    data = next((name for name in spec.data.names if name not in with_front), None)
    if data is None:
        return "checking what is there, and computing what is missing", None
    found, asked = int((points["data"] == data).sum()), _asked_points(spec)
    if asked is None and not found:
        return f"traces of the best networks, then the exact front, on {data}", None
    if asked is not None and found < asked:
        what = "search of operating points" if found else "traces of the best networks, then the search,"
        return f"{what} on {data}", found / asked if found else None
    return f"evaluating the front on the test images of {data}", None


_PHASES = {"backbones": "backbones", "exits": "exit heads"}


def _asked_points(spec: StudySpec) -> int | None:
    """The operating points that the searches of a data set ask for, at most; None for an exact front."""
    points = spec.operating_points
    if points.search == "exact":
        return None
    return points.trials * (1 if points.scope == "across" else points.networks)


def _trials(status: Mapping[str, Any], spec: StudySpec, ended: set[tuple[str, str]]) -> str:
    budgets = {False: spec.backbones.epochs, True: spec.exits.epochs}

    def kind(trial: Mapping[str, Any]) -> str:
        if trial["status"] in ("running", "failed"):
            return str(trial["status"])
        is_open = trial["status"] in ("under way", "no epoch yet", "damaged")
        return "left" if is_open and trial["epochs"] < budgets[trial["mode"] in HEAD_MODES] else "done"

    count = Counter(map(kind, status["trials"]))
    new = [one["trials"] - one["started"] for one in status["phases"] if (one["data"], one["phase"]) not in ended]
    left = count["left"] + sum(max(0, one) for one in new)
    return f"{count['done']} done, {count['running']} running, {left} left, {count['failed']} failed"


def _epochs(phases: Sequence[Mapping[str, Any]], ended: set[tuple[str, str]]) -> str:
    done = sum(one["epochs_done"] for one in phases)
    left = sum(one["epochs_left"] for one in phases if (one["data"], one["phase"]) not in ended)
    return f"{done} done, at most {left} left" if left else f"{done} done"


def _points(status: Mapping[str, Any], spec: StudySpec) -> str:
    asked, found, failed = _asked_points(spec), status["operating_points"], status["operating_points_failed"]
    text = f"{found}, all of the exact front" if found else "none yet; all of the exact front are computed"
    if asked is not None:
        text = f"{found} of {asked * len(spec.data.names)}"
    return f"{text}; {failed} failed" if failed else text


def _time_left(status: Mapping[str, Any], spec: StudySpec, ended: set[tuple[str, str]]) -> str:
    """How long the training takes, at most; a stage whose epochs were never measured is named."""
    if status["finished"]:
        return "none"
    left = [one for one in status["phases"] if (one["data"], one["phase"]) not in ended and one["epochs_left"]]
    if not left:
        return "seconds to minutes, for traces, search and test"
    slots = slots_here(spec.resources)
    known = [one for one in left if one["seconds_left"] is not None]
    seconds = sum(one["seconds_left"] / max(1, min(slots, one["trials"])) for one in known)
    text = f"at most about {span(seconds)} of training on a machine like this" if known else ""
    names = ", ".join(f"{_PHASES[one['phase']]} on {one['data']}" for one in left if one not in known)
    unknown = f"not known before a first epoch for {names}" if names else ""
    return "; ".join(filter(None, (text, unknown)))


def _errors(folder: Location, status: Mapping[str, Any], points: pd.DataFrame) -> list[str]:
    """The last failed trial, damaged trials, and the last failed operating point."""
    found = []
    failures = FailureLog(folder / "failures.json").read()
    errors = {name: row["error"] for name, row in failures.items()}
    errors |= {one["trial_id"]: one["error"] for one in status["trials"] if one["status"] == "damaged"}
    if errors:
        name, error = list(errors.items())[-1]
        found.append(f"Trial {name} failed: {error}")
    failed = points[points["state"] == "FAIL"]
    if len(failed):
        found.append(f"Operating point {failed['number'].iloc[-1]} failed: {failed['error'].iloc[-1]}")
    return found
