"""The candidates of a run folder, from its stored traces and profiles: no image and no weights are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from results.tables import part_count, read_table
from search_spaces.spec import OperatingPointsSpec, StudySpec, validate_space
from study.costs.flops import NetworkWork, count_work
from study.costs.measured_profile import read_profile
from study.costs.profile import Costs
from study.errors import UserError
from study.phases.candidates import Candidate
from study.phases.pricing import MEASURED, check_one_source, with_frequencies
from study.run_folder import STUDY_FILE, read_study_file
from study.storage import read_published
from study.stored_traces import load_best, read_trace


def stored_study(folder: Path, changes: Sequence[tuple[str, object]] = ()) -> StudySpec:
    """The study of a run folder; ``changes`` as those of ``run --set``.

    Raises:
        UserError: there is no study, or it cannot be read.
        SpecError: with the changes it is none.
    """
    stored = read_study_file(folder)
    if stored is None:
        raise UserError(f"{folder} is no run folder: it has no {STUDY_FILE}")
    return validate_space(stored["study"], str(folder / STUDY_FILE), changes)


def stored_candidates(folder: Path, points: OperatingPointsSpec) -> list[Candidate]:
    """The networks that phase 2 searched, or will search, at the precisions of a study.

    Networks whose traces are still missing are left out; of those that were traced for an earlier state of phase 1
    only the ones in the table ``costs`` count, where there is one.

    Raises:
        UserError: there is not one, or a profile is missing.
    """
    known = None
    if part_count(folder / "tables", "costs"):
        known = set(read_table(folder / "tables", "costs")["trial_id"])
    traces: dict[tuple[str, Any, Any], dict[str, Path]] = {}
    for path in sorted((folder / "traces").glob("*")):
        published = read_published(path, {"trace.json"}) if path.is_dir() else None
        if published is None:
            continue
        of = json.loads(published.files["trace.json"])
        if of["precision"] in points.quantization.values and (known is None or of["weights"].split("@")[0] in known):
            key = of["weights"], of["precision"], of.get("int8_execution")
            traces.setdefault(key, {})[of["split"]] = path
    candidates = []
    for (weights, precision, _), splits in traces.items():
        if {"calibration", "validation"} <= set(splits):
            calibration, validation = read_trace(splits["calibration"]), read_trace(splits["validation"])
            if calibration is None or validation is None:
                continue
            name = f"{weights.replace('@', '-')}-{precision}-batch{points.batch_size}.json"
            costs = _stored_costs(folder / "profiles" / name, measured=points.costs == MEASURED)
            work = _work(folder, weights)
            candidates.append(Candidate(weights, costs, calibration, validation, precision=precision, work=work))
    if not candidates:
        raise UserError(
            f"{folder / 'traces'} holds no traces of a network at {', '.join(map(str, points.quantization.values))}"
        )
    check_one_source(candidates)
    needs_work = points.dvfs.values != ("none",) or points.constraints.memory is not None
    if needs_work and any(candidate.work is None for candidate in candidates):
        raise UserError(f"{folder}: memory and frequency rules need the networks' checkpoints, which are not there")
    return with_frequencies(points, candidates)


def _stored_costs(path: Path, *, measured: bool) -> Costs:
    if not path.exists():
        raise UserError(f"{path} is missing: give `run` again, which writes it")
    return read_profile(path).costs if measured else Costs.from_json(path.read_text())


def _work(folder: Path, weights: str) -> NetworkWork | None:
    if not (folder / "checkpoints" / weights.partition("@")[0]).exists():
        return None
    return count_work(load_best(folder / "checkpoints", weights, torch.device("cpu"))[0])
