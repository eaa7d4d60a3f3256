"""The plan of a start: resolved before anything is written, and the same for ``run`` and its dry run."""

from __future__ import annotations

import yaml
from support.studies import run_context, tiny_settings, tiny_study

from study.cli.main import main
from study.execution.local import LocalExecutor
from study.run.images_line import images_line
from study.run.plan import make_plan


def test_a_plan_holds_the_resolved_study_and_writes_nothing(tmp_path):
    spec, where = tiny_study(backbones={"precision": "auto"}), run_context(tmp_path / "run")
    plan = make_plan(spec, where, LocalExecutor(spec.resources), extend=False)
    assert plan.spec.backbones.model_dump()["precision"] in ("fp32", "bf16")
    assert plan.datasets["digits"].settings.image_size == 32 and plan.grown == ()
    assert plan.digests == {"digits": plan.datasets["digits"].dataset.info.digest}
    counts = plan.datasets["digits"].image_counts
    assert counts == {"classes": 10, "train": 144, "calibration": 48, "validation": 48, "test": 100}
    assert (
        images_line("digits", counts, ["limit: a"])
        == "digits: 10 classes; images: 144 train, 48 calibration, 48 validation, 100 test; limit: a"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_tells_classes_and_images_in_one_line(tmp_path, capsys):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_settings()))
    assert main(["run", str(tmp_path / "tiny.yaml"), "--local", "--dry-run", "--storage", str(tmp_path / "runs")]) == 0
    told = capsys.readouterr().out
    assert "digits: 10 classes; images: 144 train, 48 calibration, 48 validation, 100 test; limit: 240 of 14" in told
    assert ", one trial after the other; nothing was started or written" in told, "as --local works"
    assert not (tmp_path / "runs").exists()
