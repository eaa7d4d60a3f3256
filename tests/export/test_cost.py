"""The point that is exported or recommended by another cost than FLOPs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.cli import result_of

from results.schemas import TableError
from results.summary import recommended_by, summarize_front
from study import Study, UserError
from study.cli.main import main
from study.costs.measure.profile import MeasureSettings
from study.progress import Reporter
from study.run import machine_seconds
from study.run.machine_seconds import with_machine_seconds

QUIET = Reporter(quiet=True)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure for an instant: no test looks at how long a part took."""
    short = MeasureSettings(repeats=2, warm_up_seconds=0.01, timing_window_seconds=0.001)
    monkeypatch.setattr(machine_seconds, "SHORT", short)


def test_seconds_of_this_machine_choose_the_exported_point_and_stand_in_its_card(
    study_of_exits: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    assert main(["export", str(study_of_exits), "--cost", "seconds", "--output", str(folder)]) == 0
    facts, card = json.loads((folder / "model.json").read_text()), (folder / "README.md").read_text()
    point, reference = facts["point"], facts["reference"]
    assert point["latency_source"] == "measured" and point["latency_mean_seconds"] > 0
    assert reference["latency_seconds"] > 0
    assert f"{point['latency_mean_seconds'] * 1e3:.4g} ms in the mean" in card and "MFLOPs" in card
    assert "by seconds within" in card and "--cost seconds" in card


def test_the_front_with_seconds_recommends_the_fastest_point(
    study_of_exits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = result_of(f"front {study_of_exits} --cost seconds", capsys)
    assert found["latency_source"] == "measured" and found["classic"]["latency_seconds"] > 0
    near = [row for row in found["front"] if row["accuracy_drop"] <= found["tolerance"] + 1e-12]
    assert found["recommended"]["point"] == min(near, key=lambda row: row["latency_mean_seconds"])["number"]
    plain = result_of(f"front {study_of_exits}", capsys)
    assert plain["recommended"]["point"] == min(near, key=lambda row: row["flops"])["number"]
    assert plain["latency_source"] is None and all(row["latency_mean_seconds"] is None for row in plain["front"])
    least = result_of(f"front {study_of_exits} --cost energy", capsys)["recommended"]["point"]
    assert least == min(near, key=lambda row: row["energy_joules"])["number"]


def test_the_same_in_python(study_of_exits: Path) -> None:
    opened = Study.open(study_of_exits)
    found = opened.recommend(cost="seconds")
    assert "by seconds within" in found.reason and found.row["latency_source"] == "measured"
    near = opened.front()[lambda rows: rows["accuracy_drop"] <= 0.01 + 1e-12]
    assert opened.recommend(cost="energy").row["energy_joules"] == near["energy_joules"].min()
    for ask, told in (({"cost": "watts"}, "watts"), ({"cost": "seconds", "budget": {"flops": 1e12}}, "leave out cost")):
        with pytest.raises(UserError, match=told):
            opened.recommend(**ask)  # type: ignore[arg-type]


def test_what_has_no_seconds_here(study_of_exits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = summarize_front(study_of_exits / "tables")
    with pytest.raises(TableError, match="have no energy"):
        recommended_by(replace(summary, points=summary.points.assign(energy_joules=None)), "energy")
    scaled = replace(summary, points=summary.points.assign(dvfs="paper"))
    with pytest.raises(UserError, match="simulated frequencies"):
        with_machine_seconds(study_of_exits, scaled, data=None, reporter=QUIET)
    monkeypatch.setattr(machine_seconds, "_measured", lambda *_: None)  # as of simulated int8
    unknown = with_machine_seconds(study_of_exits, summary, data=None, reporter=QUIET)
    with pytest.raises(TableError, match="have no seconds"):
        recommended_by(unknown, "seconds")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("export {} --point 1 --cost energy", "--cost chooses the point"),
        ("front {} --cost seconds --exact", "leave out --exact"),
        ("front {} --cost energy --output front.csv", "and --output"),
    ],
)
def test_a_cost_belongs_to_a_choice(
    command: str, told: str, study_of_exits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.format(study_of_exits).split()) == 2
    assert told in capsys.readouterr().err
