"""A finished run folder, made in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from results.parts import read_table
from search_spaces.spec import validate_space
from study.checkpoints.description import WeightsId, read_description
from study.data.loading import load_dataset, load_test_set
from study.data.settings import DataSettings
from study.execution.trial import run_trial
from study.progress import Reporter
from study.run.plan import plan_trials
from study.run.run import RunContext, run_study
from study.traces.store import TraceStore

STUDY: dict[str, Any] = {
    "name": "small",
    "data": {"name": "digits", "limit": 240, "test_limit": 60, "calibration": 0.2, "validation": 0.2},
    "backbones": {"epochs": 6, "backbone": "vgg11", "width": 0.125, "batch_size": 32, "precision": "fp32"},
    "exits": {"epochs": 2, "head": "linear", "batch_size": 32, "precision": "fp32", "learning_rate": 0.01},
    "operating_points": {"trials": 12, "batch": 6, "sampler": "random", "policy": ["predictive", "static"]},
}


def finish_study(folder: Path, study: dict[str, Any] = STUDY) -> None:
    """Train and trace the networks of a small study here, so that its run finds nothing left for Ray to do."""
    spec, cpu = validate_space(study, "small"), torch.device("cpu")
    settings = DataSettings(seed=0, **spec.data.model_dump())
    dataset, test = load_dataset(settings, folder), load_test_set(settings, folder)
    parent: dict[str, Any] = {}
    for phase in ("backbones", "exits"):
        (plan,) = plan_trials(spec, phase, dataset.info.digest, **parent)
        run_trial(plan, dataset, folder / "checkpoints", epochs=study[phase]["epochs"], device=cpu)
        best = read_description(folder / "checkpoints" / plan.trial_id / "best")
        assert best is not None
        parent = {"backbone": plan.network, "parent": WeightsId(plan.trial_id, best.weights_hash)}
    traces = TraceStore(folder / "traces", folder / "checkpoints", dataset.calibration, cpu)
    for split, images in (("calibration", dataset.calibration), ("validation", dataset.validation)):
        traces.get(parent["parent"], "fp32", split, images, dataset.info.digest)
    traces.get(parent["parent"], "fp32", "test", test, test.digest)
    run_study(spec, RunContext(folder=folder, data_root=folder, reporter=Reporter(quiet=True)))
    assert len(read_table(folder / "tables", "front")) > 2, "some mistakes take several points"
