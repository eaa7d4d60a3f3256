"""What a study does on Ray that it cannot do in one process: trials side by side, trials that fail in a worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from support.faults import comparable_tables, different_tables
from support.studies import run_context, tiny_settings, tiny_study

from search_spaces.spec import validate_space
from study.cli.main import main
from study.errors import UserError
from study.run.run import run_study


@pytest.fixture(scope="module")
def logged(ray_instance: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a study on Ray that wrote logs."""
    folder = tmp_path_factory.mktemp("logged") / "tiny"
    run_study(tiny_study(logging=["tensorboard"]), run_context(folder, local=False))
    return folder


def test_a_study_on_ray_has_the_tables_of_a_local_one(logged: Path, tmp_path: Path) -> None:
    """Bit for bit: both compute with one thread."""
    run_study(tiny_study(logging=["tensorboard"]), run_context(tmp_path / "tiny"))
    assert different_tables(comparable_tables(tmp_path / "tiny"), logged) == {}


def test_impossible_resources_are_refused(ray_instance: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a trial asks for 1 CPUs and 64 GPUs"):
        run_study(tiny_study(resources={"gpus_per_trial": 64}), run_context(tmp_path / "tiny", local=False))


def test_asha_stops_a_trial_that_learns_nothing_and_a_failed_trial_is_tried_again(
    ray_instance: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first start has a file in the place of a trial's folder. The second start decides nothing of ASHA anew."""
    rates = [0.01, 0.008, 1e-9, 2e-9]
    settings = tiny_settings(
        seed=6,  # the order of the trials: those that learn come first
        backbones={
            "trials": len(rates),
            "epochs": 6,
            "scheduler": {"kind": "asha", "first_rung": 3, "reduction": 2},
            "learning_rate": rates,
        },
        operating_points={"trials": 5, "networks": 1, "quantization": "int8"},
        resources={"max_failures": 0},
    )
    folder = tmp_path / "tiny"
    blocker = folder / "checkpoints" / trials_of(settings, tmp_path, capsys)[-1]
    blocker.parent.mkdir(parents=True)
    blocker.write_text("in the way")
    study = validate_space(settings, "tiny")

    run_study(study, run_context(folder, local=False))
    first = backbones_of(folder)
    assert first.loc[blocker.name, "status"] == "failed" and first.loc[blocker.name, "error"]
    (idle,) = first[first["learning_rate"] == 1e-9].to_dict("records")
    assert (idle["status"], idle["epochs_done"]) == ("stopped_by_asha", 3)
    best = first.drop(blocker.name).sort_values("score").iloc[-1]
    assert best["status"] == "finished" and best["learning_rate"] > 1e-3
    assert set(comparable_tables(folder)["front"]["precision"]) == {"int8"}, "traced by a worker"

    blocker.unlink()
    run_study(study, run_context(folder, local=False))
    second = backbones_of(folder)
    assert second.loc[blocker.name, "status"] == "finished" and pd.isna(second.loc[blocker.name, "error"])
    # A column of whole numbers has floats where the failed trial's is null.
    pd.testing.assert_frame_equal(first.drop(blocker.name), second.drop(blocker.name), check_dtype=False)


def trials_of(settings: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The backbones' trials of a study that has not begun."""
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(settings))
    capsys.readouterr()
    assert main(["run", str(file), "--storage", str(folder / "elsewhere"), "--dry-run", "--json"]) == 0
    return [row["trial_id"] for row in json.loads(capsys.readouterr().out)["backbones"]]


def backbones_of(folder: Path) -> pd.DataFrame:
    """The backbones' rows of the table of trials, by trial."""
    trials = comparable_tables(folder)["trials"]
    rates = trials["settings"].map(lambda text: json.loads(text)["training"]["learning_rate"])
    return trials.assign(learning_rate=rates)[trials["phase"] == "backbones"].set_index("trial_id")


def test_trials_on_ray_write_logs(logged: Path) -> None:
    """One log a trial, whatever Tune runs beside the trials: rungs, traces."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    epochs = comparable_tables(logged)["epochs"]
    assert {one.name for one in (logged / "logs" / "tensorboard").iterdir()} == set(epochs["trial_id"])
    for trial, own in epochs.groupby("trial_id"):
        events = EventAccumulator(str(logged / "logs" / "tensorboard" / str(trial)))
        events.Reload()
        logs = {one.step: one.value for one in events.Scalars("ray/tune/validation_loss")}
        assert logs == pytest.approx(own.set_index("epoch")["validation_loss"].to_dict())
