"""What `status` makes of the files of a run folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from results.parts import write_part
from results.schemas import TableError
from search_spaces.spec import validate_space
from study.checkpoints.description import is_trial_id, read_description
from study.data.loading import load_dataset
from study.data.settings import DataSettings
from study.execution.trial import run_trial
from study.run.folder import claim_folder
from study.run.status import study_status
from study.run.trials import draw_trials

STUDY = {
    "name": "small",
    "data": {"name": "digits", "limit": 60, "test_limit": 20, "calibration": 0.2, "validation": 0.2},
    "backbones": {"epochs": 2, "backbone": "vgg11", "width": 0.0625, "batch_size": 32, "precision": "fp32"},
    "operating_points": {"trials": 200},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a study whose backbone is trained."""
    folder, spec = tmp_path_factory.mktemp("trained"), validate_space(STUDY, "small")
    dataset = load_dataset(DataSettings(seed=0, **spec.data.model_dump()), folder)
    claim_folder(spec.plain(), folder, {"digits": dataset.info.digest})
    (plan,) = draw_trials(spec).backbones_on(dataset.info.digest)
    run_trial(plan, dataset, folder / "checkpoints", epochs=2, device=torch.device("cpu"))
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_trial_is_told_as_its_checkpoint_describes_it(folder: Path) -> None:
    (trial,) = study_status(folder)["trials"]
    (path,) = (folder / "checkpoints").iterdir()
    best = read_description(path / "best")
    assert best is not None and trial["weights"] == f"{path.name}@{best.weights_hash}"
    told = {name: trial[name] for name in ("trial_id", "status", "mode", "data", "network", "head", "epochs", "error")}
    assert told == {
        **{"trial_id": path.name, "status": "under way", "mode": "original", "data": "digits"},
        **{"network": "vgg11 x 0.0625", "head": None, "epochs": 2, "error": None},
    }
    assert trial["score"] is not None and 0 < trial["score"] <= 1 and trial["seconds"] > 0


@pytest.mark.parametrize("damage", ["description", "weights"])
def test_a_damaged_checkpoint_is_told(folder: Path, damage: str) -> None:
    pattern = {"description": "*/last/checkpoint-*", "weights": "*/best/weights-*"}[damage]
    (file,) = (folder / "checkpoints").glob(pattern)
    file.write_bytes(file.read_bytes()[:-10])
    (trial,) = study_status(folder)["trials"]
    assert trial["status"] == "damaged" and file.name in trial["error"]


def test_folders_that_are_no_trials_are_passed_over(folder: Path) -> None:
    (path,) = (folder / "checkpoints").iterdir()
    for name in (f"{path.name}.damaged", f"{path.name} (conflicted copy)", f"{path.name} 2"):
        shutil.copytree(path, path.with_name(name))
    assert [trial["trial_id"] for trial in study_status(folder)["trials"]] == [path.name]
    assert is_trial_id(path.name)


def test_rows_of_a_copy_are_never_counted(folder: Path) -> None:
    write_part(
        folder / "tables", "operating_points", [{"number": number, "state": "COMPLETE"} for number in range(200)]
    )
    assert study_status(folder)["operating_points"] == 200
    part = folder / "tables" / "operating_points" / "part-00000.parquet"
    shutil.copy(part, part.with_name("part-00000 (conflicted copy).parquet"))
    with pytest.raises(TableError, match=r"part-00000 \(conflicted copy\).* is a copy of part-00000"):
        study_status(folder)


def test_a_status_and_a_description_need_no_torch(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; import study.checkpoints.description\n"
        "from study.run.status import study_status\n"
        "assert study_status(Path(sys.argv[1]))['trials'][0]['epochs'] == 2\n"
        "assert not {'torch', 'ray', 'optuna'} & set(sys.modules), 'slow imports'"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True, timeout=120)
