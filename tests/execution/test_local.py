"""The local executor: a study in this process, without Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.faults import comparable_tables
from support.studies import TINY, run_context, tiny_study

from study.errors import UserError
from study.execution import local
from study.execution.trial_plan import TrialPlan
from study.run.run import run_study

SMALL: dict[str, dict[str, object]] = {
    "backbones": {"trials": 1, "epochs": 1, "scheduler": {"kind": "none"}, "width": 0.0625},
    "exits": {"trials": 2, "head": "linear", "learning_rate": [0.001, 0.01]},
    "operating_points": {"trials": 5, "networks": 1},
}


def run(folder: Path, **changes: dict[str, object]) -> None:
    sections = {name: {**SMALL.get(name, {}), **changes.get(name, {})} for name in {*SMALL, *changes}}
    run_study(tiny_study(**sections), run_context(folder))


def test_a_local_study_needs_no_ray_and_keeps_the_threads_of_its_caller(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TINY, **{name: {**TINY[name], **changes} for name, changes in SMALL.items()}}))
    command = ["run", str(file), "--local", "--storage", str(tmp_path / "runs")]
    code = (
        "import sys, torch\n"
        "torch.set_num_threads(2)\n"
        "sys.modules['ray'] = None\n"
        "from study.cli.main import main\n"
        f"code = main({command!r})\n"
        "assert torch.get_num_threads() == 2\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_trial_that_fails_is_tried_again_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, attempts = local.train_job, []

    def failing(plan: TrialPlan, *arguments: Any, **options: Any) -> None:
        if plan.phase == "exits" and plan.training.learning_rate == 0.01:
            attempts.append(plan.trial_id)
            raise RuntimeError("first line\nthe codewords ran away")
        real(plan, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(local, "train_job", failing)
        run(tmp_path / "tiny", resources={"max_failures": 2})
    trials = comparable_tables(tmp_path / "tiny")["trials"]
    failed = trials[trials["status"] == "failed"]
    assert attempts == failed["trial_id"].tolist() * 3 and failed["error"].tolist() == ["the codewords ran away"]
    run(tmp_path / "tiny", resources={"max_failures": 2})
    assert set(comparable_tables(tmp_path / "tiny")["trials"]["status"]) == {"finished"}


def test_a_lost_disk_stops_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device", "/somewhere")

    monkeypatch.setattr(local, "train_job", full)
    with pytest.raises(UserError, match=r"No space left on device.*mend that"):
        run(tmp_path / "tiny")


def test_what_needs_a_cluster_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave out --local"):
        run(tmp_path / "tiny", backbones={"scheduler": {"kind": "asha", "first_rung": 1, "reduction": 2}})
    with pytest.raises(UserError, match="leave out --address"):
        run_study(tiny_study(), replace(run_context(tmp_path / "tiny"), address="auto"))
    assert not (tmp_path / "tiny").exists()


def test_a_path_that_is_no_utf_8_is_refused_before_ray_starts_and_works_locally(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    with pytest.raises(UserError, match="this path is no UTF-8, which Ray needs"):
        run_study(tiny_study(**SMALL), run_context(folder / "tiny", local=False))
    assert not folder.exists()
    run(folder / "tiny")
    assert (folder / "tiny" / "tables" / "front").is_dir()


def test_fp32_is_fp32_in_every_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    run(tmp_path / "tiny")
    assert not torch.backends.cudnn.allow_tf32
