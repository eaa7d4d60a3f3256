"""A trained network, a finished run folder, and a workplace for each case."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from corpus import TRAIN, Workplace

from search_spaces.spec import validate_space
from study.cli import main
from study.data import DataSettings, load_dataset
from study.phases.training import plan_trials
from study.progress import Reporter
from study.run import Surroundings, run_study
from study.trials import run_trial

STUDY = {
    "name": "small",
    "data": {"name": "digits", "limit": 240, "test_limit": 60, "calibration": 0.2, "validation": 0.2},
    "backbones": {"epochs": 1, "backbone": "vgg11", "width": 0.125, "batch_size": 32, "precision": "fp32"},
    "exits": {"epochs": 1, "head": "linear", "batch_size": 32, "precision": "fp32"},
    "operating_points": {"trials": 12, "batch": 6, "sampler": "random"},
}


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone, the same with exit heads, and the folder of a finished study, all made without Ray."""
    shelf = tmp_path_factory.mktemp("shelf")
    models = shelf / "models"
    assert main([*TRAIN.split(), "--data", "digits", "--limit", "240", "--output", str(models / "original")]) == 0
    heads = f"train --mode exits --head linear --epochs 1 --device cpu --precision fp32 --output {models / 'exits'}"
    assert main([*heads.split(), "--pretrained", str(models / "original")]) == 0
    finish_study(shelf / "run", models)
    return shelf


def finish_study(folder: Path, models: Path) -> None:
    """Train the trials of a small study one by one, so that a start finds nothing left for Ray to do."""
    spec = validate_space(STUDY, "small")
    dataset = load_dataset(DataSettings(seed=0, **spec.data.model_dump()), models)
    parent = None
    for phase in ("backbones", "exits"):
        (plan,) = plan_trials(
            spec, phase, dataset.info.digest, backbone=parent and parent[0], parent=parent and parent[1]
        )
        run_trial(plan, dataset, folder / "checkpoints", epochs=1, device=torch.device("cpu"))
        from study.trials import read_trial

        best = read_trial(plan, folder / "checkpoints")
        assert best is not None
        parent = (plan.network, f"{plan.trial_id}@{best_weights(folder, plan.trial_id)}")
    run_study(spec, Surroundings(folder=folder, data_root=folder / "data", reporter=Reporter(quiet=True)))


def best_weights(folder: Path, trial: str) -> str:
    """The hash of a trial's best weights."""
    from study.checkpoints import read_description

    best = read_description(folder / "checkpoints" / trial / "best")
    assert best is not None
    return best.weights_hash


@pytest.fixture
def workplace(shelf: Path, tmp_path: Path) -> Workplace:
    """An empty folder beside the shelf."""
    return Workplace(tmp_path, shelf)
