"""A pack: a study without weights at half precision, which replays, searches and compares like the study itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from results.parts import read_table, rows_of
from results.schemas import SCHEMAS
from study.cli.main import main
from study.run.reader import stored_logits, stored_networks, stored_study
from study.search.operating_point import point_of


@pytest.fixture(scope="module")
def packed(finished_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    destination = tmp_path_factory.mktemp("packs") / "deep" / "tiny"
    assert main(["pack", str(finished_study), str(destination)]) == 0
    return destination


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_pack_holds_half_the_logits_and_no_weights(finished_study: Path, packed: Path) -> None:
    assert not (packed / "checkpoints").exists() and not list(packed.rglob("weights*"))
    assert size(packed / "traces") < 0.7 * size(finished_study / "traces")
    spec = stored_study(packed).operating_points
    mine, whole = (stored_networks(folder, spec) for folder in (packed, finished_study))
    for one, other in zip(mine, whole, strict=True):
        expected = other.validation.logits.astype(np.float16)
        np.testing.assert_array_equal(one.validation.logits, expected.astype(np.float32))
        assert (one.weights, one.costs.to_json()) == (other.weights, other.costs.to_json())


def test_a_pack_does_not_tell_where_the_images_lie(finished_study: Path, packed: Path) -> None:
    study = yaml.safe_load((packed / "study.yaml").read_text())["study"]
    whole = yaml.safe_load((finished_study / "study.yaml").read_text())["study"]
    assert "folder" not in study["data"] and "pretrained" not in study["backbones"] and "folder" in whole["data"]
    assert {**whole["exits"], **whole["operating_points"]} == {**study["exits"], **study["operating_points"]}


def test_its_tables_are_those_of_the_rounded_logits(finished_study: Path, packed: Path) -> None:
    tables = {name: read_table(packed / "tables", name) for name in SCHEMAS}
    points = stored_study(packed).operating_points
    assert len(tables["operating_points"]) == points.trials
    networks = stored_networks(packed, points)
    tests = stored_logits(packed, networks, "test")
    for row in rows_of(tables["front"]):
        point = point_of(row, networks)
        assert point.evaluate()["accuracy"] == row["accuracy"]
        test = tests[point.network.weights, point.network.precision]
        assert point.evaluate(test)["accuracy"] == row["test_accuracy"]
    for name in ("trials", "epochs", "costs"):
        pd.testing.assert_frame_equal(tables[name], read_table(finished_study / "tables", name))
    exits = tables["exits"]
    assert exits["cumulative_flops_published"].notna().all()


@pytest.mark.parametrize(
    "command",
    [
        "front",
        "front --exact --set operating_points.policy=predictive",
        "front --exact --set operating_points.policy=predictive --set operating_points.constraints.memory=1e9",
        "compare",
        "compare --set operating_points.costs=jetson-tx2 --set operating_points.dvfs=[race_to_idle,paper]",
        "status",
    ],
)
def test_commands_that_read_a_study_read_a_pack(packed: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *options = command.split()
    capsys.readouterr()
    assert main([name, str(packed), *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main([name, str(packed), *options]) == 0
    assert "Traceback" not in capsys.readouterr().out


def test_a_pack_knows_that_its_trials_are_finished(
    finished_study: Path, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for folder in (finished_study, packed):
        capsys.readouterr()
        assert main(["status", str(folder), "--json"]) == 0
        status = json.loads(capsys.readouterr().out)
        trials = {trial["trial_id"]: {**trial, "seconds": None} for trial in status["trials"]}
        found.append((trials, [{**phase, "seconds_per_epoch": None} for phase in status["phases"]], status["finished"]))
    assert found[0] == found[1]


def test_compare_writes_what_it_prints(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(packed), "--drop", "0.05", "--output", str(tmp_path / "c.csv"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = pd.read_csv(tmp_path / "c.csv")
    assert written["family"].tolist() == [row["family"] for row in printed["comparison"]]
    assert set(written["drop"]) == {0.05}
    assert main(["compare", str(packed), "--output", str(tmp_path / "c.txt")]) == 2
    assert "must end in .csv or .parquet" in capsys.readouterr().err


def test_what_cannot_be_packed_is_refused_in_one_line(
    finished_study: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", str(finished_study), str(packed)]) == 2
    assert "exists: name a new folder" in capsys.readouterr().err
    assert main(["pack", str(tmp_path), str(tmp_path / "new")]) == 2
    poor = tmp_path / "tiny"
    shutil.copytree(finished_study, poor, ignore=lambda _, names: [one for one in names if "-test-" in one])
    assert main(["pack", str(poor), str(tmp_path / "new")]) == 2
    assert "holds no test trace of" in capsys.readouterr().err
    assert not (tmp_path / "new").exists(), "nothing half-written"
