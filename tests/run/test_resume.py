"""What a study does with a run folder that was damaged, filled up, or belongs to a smaller study."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from support.faults import KEYS, differences
from support.studies import TINY, run_context, tiny_study

from results.parts import read_table
from study.checkpoints.description import WeightsId
from study.cli.main import main
from study.errors import UserError
from study.run.run import run_study


def tables_of(folder: Path) -> dict[str, pd.DataFrame]:
    return {
        name: read_table(folder / "tables", name).drop(columns="seconds", errors="ignore").sort_values(keys)
        for name, keys in KEYS.items()
    }


def assert_same(left: dict[str, pd.DataFrame], right: dict[str, pd.DataFrame]) -> None:
    assert {name: dict(+counts) for name, counts in differences(left, right).items() if +counts} == {}


def cut(path: Path) -> Path:
    """Lose the second half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def test_every_row_tells_what_computed_it(finished_study: Path) -> None:
    tables = tables_of(finished_study)
    known = tables["provenance"].set_index("provenance")
    for name, table in tables.items():
        assert table["provenance"].isin(known.index).all(), name
    row = known.loc[tables["front"]["provenance"].iloc[0]]
    assert json.loads(row["study"])["exits"]["head"] == ["linear", "conv"] and row["seed"] == 0
    assert json.loads(row["versions"])["torch"] and row["data_digest"] == tables["trials"]["data_digest"].iloc[0]
    assert (tables["trials"]["data"] == "digits").all()


def test_damaged_tables_traces_and_settings_are_set_aside_and_computed_again(
    finished_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(finished_study, folder)
    traces = sorted((folder / "traces").glob("*-validation-*"))
    parts = sorted((folder / "tables" / "operating_points").glob("part-*"))
    assert len(parts) == 3
    damaged = [
        parts[1],  # in the middle: the rows behind it stay
        *(next((folder / "tables" / name).glob("part-*")) for name in ("trials", "costs", "front", "provenance")),
        next(traces[0].glob("trace-*.safetensors")),
        traces[1] / "manifest.json",
        folder / "study.yaml",
    ]
    for path in damaged:
        cut(path)
    (folder / "tables" / "exits" / f".part-0.parquet.{'a' * 32}").write_text("a draft of a killed writer")
    for command in (["status", str(folder)], ["front", str(folder)]):
        before = sorted(folder.rglob("*"))
        assert main(command) == 2, "a command that reads mends nothing"
        assert len(capsys.readouterr().err.splitlines()) == 1 and sorted(folder.rglob("*")) == before
    run_study(tiny_study(), run_context(folder))
    told = capsys.readouterr().err
    assert_same(tables_of(finished_study), tables_of(folder))
    for path in damaged:
        aside = path if path.parent.parent.name == "tables" or path.parent == folder else path.parent
        assert aside.with_name(f"{aside.name}.damaged").exists() and str(aside) in told
    assert not list(folder.rglob(".part*"))


def test_damaged_checkpoints_are_set_aside_and_trained_again(
    finished_study: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiny"
    for part in ("checkpoints", "tables"):
        shutil.copytree(finished_study / part, folder / part)
    trials = tables_of(folder)["trials"]
    backbones, exits = (trials[trials["phase"] == phase]["trial_id"].tolist() for phase in ("backbones", "exits"))
    parent = WeightsId.parse(trials[trials["phase"] == "exits"]["parent"].iloc[0]).trial_id
    backbones = [one for one in backbones if one != parent]
    cut(folder / "checkpoints" / backbones[0] / "last" / "manifest.json")
    cut(next((folder / "checkpoints" / backbones[1] / "best").glob("weights-*")))
    for one in (parent, exits[0]):  # of the same size: only its hash tells
        weights = next((folder / "checkpoints" / one / "best").glob("weights-*"))
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    (folder / "checkpoints" / exits[0] / "last" / "stray-0123456789ab.bin").write_text("of a killed writer")
    (next((folder / "checkpoints" / exits[1] / "last").glob("checkpoint-*"))).unlink()
    run_study(tiny_study(), run_context(folder))
    assert_same(tables_of(finished_study), tables_of(folder))
    told = capfd.readouterr().err
    for one in (parent, backbones[0], backbones[1], exits[0], exits[1]):
        assert (folder / "checkpoints" / f"{one}.damaged").is_dir() and one in told
    assert main(["status", str(folder), "--json"]) == 0
    status = json.loads(capfd.readouterr().out)
    assert [trial["status"] for trial in status["trials"]].count("running") == 0
    assert {trial["trial_id"] for trial in status["trials"]} == set(trials["trial_id"])


def test_an_extended_study_ends_as_the_larger_one(finished_study: Path, tmp_path: Path) -> None:
    changes = {"backbones": {"trials": 4}, "exits": {"epochs": 1, "trials": 2}, "operating_points": {"trials": 45}}
    extended, larger = tmp_path / "extended" / "tiny", tmp_path / "larger" / "tiny"
    shutil.copytree(finished_study, extended)
    with pytest.raises(UserError, match=r"backbones.trials is 3 there and 4 here.*--extend"):
        run_study(tiny_study(**changes), run_context(extended))
    run_study(tiny_study(**changes), run_context(extended), extend=True)
    run_study(tiny_study(**changes), run_context(larger))
    found, expected = tables_of(extended), tables_of(larger)
    assert len(found.pop("provenance")) == 2 and len(expected.pop("provenance")) == 1
    searched = set(expected["operating_points"]["search"])
    for name, table in expected.items():
        mine = found[name]
        mine = mine[mine["search"].isin(searched)] if name == "operating_points" else mine
        if name == "trials":  # null where the smaller study went on with a trial that the larger one stops
            mine = mine.assign(weights_hash=mine["weights_hash"].fillna(table["weights_hash"]))
        columns = [column for column in table if column != "provenance"]
        pd.testing.assert_frame_equal(
            mine[columns].reset_index(drop=True), table[columns].reset_index(drop=True), check_exact=True, obj=name
        )
    stored = yaml.safe_load((extended / "study.yaml").read_text())
    assert len(stored["provenance"]["extended"]) == 1
    run_study(tiny_study(**changes), run_context(extended))  # from now on it is the larger one


@pytest.mark.slow
def test_a_study_grows_by_another_data_set(
    finished_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for number in range(80):
        path = tmp_path / "images" / ("dark" if number % 2 else "light") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((rng.integers(0, 128, (16, 16)) + 127 * (number % 2)).astype(np.uint8)).save(path)
    folder = tmp_path / "tiny"
    shutil.copytree(finished_study, folder)
    changes = {"data": {"name": ["digits", "image_folder"], "folder": str(tmp_path / "images")}}
    run_study(tiny_study(**changes), run_context(folder), extend=True)
    before, after = tables_of(finished_study), tables_of(folder)
    for name in ("trials", "operating_points", "front", "exits", "costs"):
        assert set(after[name]["data"]) == {"digits", "image_folder"}, name
        old = after[name][after[name]["data"] == "digits"].drop(columns="provenance").reset_index(drop=True)
        pd.testing.assert_frame_equal(old, before[name].drop(columns="provenance").reset_index(drop=True), obj=name)
    digests = after["trials"].groupby("data")["data_digest"].nunique()
    assert (digests == 1).all() and after["trials"]["data_digest"].nunique() == 2
    capsys.readouterr()
    assert main(["front", str(folder), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"digits", "image_folder"}
    assert main(["front", str(folder), "--data", "image_folder", "--figure", str(tmp_path / "f.png")]) == 0
    assert main(["front", str(folder), "--figure", str(tmp_path / "g.png")]) == 2
    assert "name one of digits, image_folder" in capsys.readouterr().err
    assert main(["status", str(folder), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["finished"] and len(status["phases"]) == 4 and status["seconds_left"] == 0


def test_status_and_dry_run_say_what_is_left(
    finished_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY))
    where = ["--storage", str(tmp_path / "runs"), "--json", "--dry-run"]
    assert main(["run", str(file), *where]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["new"] and planned["training_seconds_left"] > 0 and not (tmp_path / "runs").exists()
    assert len(planned["backbones"]) == 3 and not any(row["started"] for row in planned["backbones"])
    assert [phase["epochs_left"] for phase in planned["phases"]] == [3 + 2, 2]
    folder = tmp_path / "runs" / "tiny"
    shutil.copytree(finished_study, folder)
    exits = tables_of(folder)["trials"].set_index("phase").loc["exits", "trial_id"]
    shutil.rmtree(folder / "checkpoints" / exits.iloc[0])
    before = sorted(folder.rglob("*"))
    assert main(["run", str(file), *where, "--extend", "--set", "backbones.trials=4"]) == 0
    left = json.loads(capsys.readouterr().out)
    assert [phase["epochs_left"] for phase in left["phases"]] == [1, 1] and len(left["grows"]) == 1
    assert 0 < left["training_seconds_left"] < planned["training_seconds_left"] * 100
    assert {row["trial_id"] for row in left["backbones"] if row["started"]} <= {
        path.name for path in (folder / "checkpoints").iterdir()
    }
    assert main(["run", str(file), "--storage", str(tmp_path / "runs"), "--dry-run", "--set", "seed=1"]) == 2
    assert "seed is 0 there and 1 here" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before
    assert main(["status", str(folder)]) == 0
    assert "exits on digits: 1 of 2 trials started" in capsys.readouterr().out


def test_status_of_a_study_that_has_not_grown_up_yet(
    finished_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def status_of(folder: Path) -> Any:
        capsys.readouterr()
        assert main(["status", str(folder), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    folder = tmp_path / "tiny"
    shutil.copytree(finished_study, folder)
    assert status_of(folder)["finished"]

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("study.run.run._train", stop)  # before the first of the new epochs
    with pytest.raises(KeyboardInterrupt):
        run_study(tiny_study(backbones={"epochs": 5}), run_context(folder), extend=True)
    status = status_of(folder)
    assert not status["finished"]
    assert [(one["started"], one["epochs_done"]) for one in status["phases"]] == [(0, 0), (0, 0)], "a longer cosine"
    assert len(status["trials"]) == 5, "the trials of the smaller study are shown all the same"


def test_a_failed_trial_is_told_beside_the_end(
    finished_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(finished_study, folder)
    trials = read_table(folder / "tables", "trials")
    row = trials[trials["phase"] == "exits"].iloc[-1]
    shutil.rmtree(folder / "checkpoints" / row["trial_id"])
    (folder / "failures.json").write_text(
        json.dumps(
            {
                row["trial_id"]: {
                    **{"error": "no more memory", "mode": "exits", "parent": row["parent"]},
                    "digest": row["data_digest"],
                }
            }
        )
    )
    assert main(["status", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "finished, but for 1 failed trial: the same `run` command tries again" in told
    assert "exits on digits: 2 of 2 trials started, 1 failed" in told and "no more memory" in told


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("file systems cannot be mounted here: that takes root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_stops_a_study_and_loses_nothing(small_disk: Path, finished_study: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY))
    command = [sys.executable, "-m", "study.cli", "run", str(file), "--storage", str(small_disk)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    line = ended.stderr.splitlines()[-1]
    assert ended.returncode == 2 and "No space left on device" in line and "the same command goes on" in line
    assert str(small_disk) in line and "Traceback" not in ended.stderr
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert ended.returncode == 0, ended.stderr
    assert_same(tables_of(finished_study), tables_of(small_disk / "tiny"))
    assert "damaged" not in ended.stderr
