"""What a page says of a study, without a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.fabricated_study import fabricate

from results.parts import read_table, rows_of, write_part
from results.summary import summarize_front
from study.errors import UserError
from study.report.blocks import Kind, StudyContent
from study.report.content import report_content
from study.report.page import report_page
from study.report.wording import number_text
from study.run.folder import STUDY_FILE
from study.run.stored_front import evaluate_command

PACK = Path("results/reference/vgg19-cifar10")
SECTIONS = [
    *("front", "exits", "stops", "engine", "costs", "curves", "trials", "importances", "progress", "optimism"),
    "provenance",
]


@pytest.fixture(scope="module")
def study(finished_study: Path) -> StudyContent:
    (study,) = report_content([finished_study]).studies
    return study


def test_the_first_screen_says_what_the_summary_says(finished_study: Path, study: StudyContent) -> None:
    summary = summarize_front(finished_study / "tables")
    assert study.first is not None
    assert study.first.number == summary.recommended["number"]
    facts = {name: value for name, value, _ in study.first.facts}
    assert facts["Accuracy on test images"] == f"{summary.recommended['test_accuracy'] * 100:.2f} %"
    assert facts["FLOPs per image"] == f"{summary.recommended['flops_share'] * 100:.1f} %"
    assert not study.first.certified
    assert "Not certified" in study.first.certainty
    rows = {row[0]: row for row in study.first.beside.rows}
    assert any(name.startswith("Classic network") for name in rows)


def test_a_recommended_point_with_several_exits_is_told(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "placed", 40, 20)
    front = [row | {"policy": "placed", "exits": [2, 5, 9]} for row in rows_of(read_table(folder / "tables", "front"))]
    write_part(folder / "tables", "front", front)
    (study,) = report_content([folder]).studies
    assert study.first is not None
    assert ("exits", "2 5 9") in study.first.setting


def test_the_commands_are_those_of_this_study(finished_study: Path, study: StudyContent) -> None:
    assert study.first is not None
    texts = [command.text for command in study.first.commands]
    assert f"predictive-exit evaluate --point {finished_study} {study.first.number}" in texts
    assert f"predictive-exit export {finished_study} --point {study.first.number}" in texts
    assert any(text.startswith(f"predictive-exit run {finished_study}/study.yaml") for text in texts)


def test_the_commands_name_the_folder_of_the_users_own_backbones(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "own", 40, 20)
    stored = yaml.safe_load((folder / STUDY_FILE).read_text())
    stored["study"]["backbones"]["code"] = {"mine": "0123456789abcdef"}
    (folder / STUDY_FILE).write_text(yaml.safe_dump(stored))
    (folder / "checkpoints").mkdir()
    (study,) = report_content([folder]).studies
    assert study.first is not None
    texts = [command.text for command in study.first.commands]
    number = str(study.first.number)
    assert f"predictive-exit evaluate --point {folder} {number} --code DIR" in texts
    assert f"predictive-exit export {folder} --point {number} --code DIR" in texts
    assert any(text.endswith(f"--name {study.name}-again --code DIR") for text in texts)
    assert study.evaluate[1] == " --code DIR"
    assert evaluate_command(folder, number).endswith(f" {number} --code DIR")


def test_every_section_has_figures_or_says_what_the_study_lacks(study: StudyContent) -> None:
    assert [section.name for section in study.sections] == SECTIONS
    for section in study.sections:
        assert section.figures or section.tables or section.lacks, section.name


def test_the_columns_are_the_rows_of_the_tables(finished_study: Path, study: StudyContent) -> None:
    points = study.points
    assert points is not None
    tables = finished_study / "tables"
    front = read_table(tables, "front")
    assert points["front"] == len(front)
    assert sum(points["on_front"]) == len(front)
    assert sum(points["recommended"]) == 1
    stored = read_table(tables, "operating_points").set_index("number")["accuracy"]
    for number, accuracy in zip(points["number"], points["accuracy"], strict=True):
        assert accuracy == pytest.approx(stored[number], rel=1e-5)


def test_shares_of_a_point_add_up_to_all_images(study: StudyContent) -> None:
    assert study.points is not None
    stops = [one for one in study.points["stops"] if one is not None]
    assert stops
    for one in stops:
        assert sum(one) == pytest.approx(10_000, abs=len(one))


def test_a_front_without_the_rest_of_the_study(finished_study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    shutil.copy(finished_study / "study.yaml", folder)
    (study,) = report_content([folder]).studies
    assert study.first is None and study.points is None
    assert "not finished" in study.state
    assert all(section.lacks for section in study.sections if section.name != "provenance")
    report_page(report_content([folder]))


def damaged_copy(study: Path, folder: Path, table: str, *, weights: bool = False) -> tuple[Path, StudyContent]:
    """A copy of a study whose table is damaged: the damaged part, and what the page says."""
    shutil.copytree(study, folder, ignore=shutil.ignore_patterns("traces", *([] if weights else ["checkpoints"])))
    part = next((folder / "tables" / table).glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-40])
    (found,) = report_content([folder]).studies
    return part, found


def test_a_damaged_part_becomes_a_sentence(finished_study: Path, tmp_path: Path) -> None:
    part, study = damaged_copy(finished_study, tmp_path / "damaged", "epochs")
    assert study.first is not None and "operating points" in study.state
    assert any(str(part) in line and "copy it again" in line for line in study.missing)
    assert b"cannot be read as table epochs" in report_page(report_content([tmp_path / "damaged"]))


@pytest.mark.parametrize(
    ("table", "sections"),
    [
        ("front", ("front", "stops", "engine", "optimism")),
        ("exits", ("front", "exits", "stops", "optimism")),
        ("operating_points", ("front", "stops", "importances", "progress", "optimism")),
        ("trials", ("curves", "trials")),
        ("costs", ("costs",)),
    ],
)
def test_a_damaged_study_is_not_called_unfinished(
    finished_study: Path, tmp_path: Path, table: str, sections: tuple[str, ...]
) -> None:
    part, study = damaged_copy(finished_study, tmp_path / "damaged", table, weights=True)
    texts = [study.state, *study.missing, *(line for section in study.sections for line in section.lacks)]
    assert not any(one in text for text in texts for one in ("not finished", " yet", "no smaller network"))
    assert "damaged" in study.state or study.first is not None
    for section in study.sections:
        told = [line for line in section.lacks if f"The table {table} is damaged: {part}" in line]
        assert bool(told) == (section.name in sections), section.name
        assert all("Give the same `run` command again" in line for line in told)


def test_curves_of_a_stage_that_trains_come_from_checkpoints(finished_study: Path, tmp_path: Path) -> None:
    folder, tables = tmp_path / "running", finished_study / "tables"
    shutil.copytree(finished_study, folder, ignore=shutil.ignore_patterns("tables", "traces"))

    def curves() -> dict[str, list[dict[str, float]]]:
        (study,) = report_content([folder]).studies
        (section,) = (one for one in study.sections if one.name == "curves")
        return {one.name: one.spec["data"]["values"] for one in section.figures}

    def ends(name: str) -> list[tuple[object, ...]]:
        own = [(row["trial_id"], row["epoch"], row["score"]) for row in found[name]]
        return sorted(own)

    found = curves()
    epochs = read_table(tables, "epochs").round(5)
    for phase in ("backbones", "exits"):
        own = epochs[(epochs["phase"] == phase) & (epochs["epoch"] > 0)]
        assert ends(f"curves_{phase}") == sorted(own[["trial_id", "epoch", "score"]].itertuples(index=False, name=None))
    next((folder / "checkpoints").glob("*/last/weights*")).write_bytes(b"")
    assert sum(map(len, curves().values())) < sum(map(len, found.values())), "a damaged trial is left out"
    for name in ("trials", "epochs"):
        shutil.copytree(tables / name, folder / "tables" / name)
    assert {name: len(rows) for name, rows in curves().items()} == {name: len(rows) for name, rows in found.items()}


def test_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run folder"):
        report_content([tmp_path])


def test_the_page_asks_no_host_and_runs_only_its_own_scripts(study: StudyContent, finished_study: Path) -> None:
    page = report_page(report_content([finished_study])).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    scripts = policy[1].split("script-src")[1].split(";")[0]
    assert "unsafe" not in scripts and scripts.count("sha256-") == 2
    assert not re.search(r'<(script|link|img|iframe)[^>]*(src|href)=["\']?https?:', page)
    assert len(page) < 3_000_000


def test_the_data_of_the_page_is_inert_json(finished_study: Path) -> None:
    page = report_page(report_content([finished_study])).decode()
    data = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert not set("<>&\u2028\u2029") & set(data[1])
    assert len(json.loads(data[1])["studies"]) == 1


def test_two_studies_are_held_against_each_other(finished_study: Path) -> None:
    content = report_content([PACK, finished_study])
    assert content.together is not None
    (table,) = content.together.tables
    assert {row[1] for row in table.rows} == {"vgg19-cifar10", "tiny"}
    assert content.together.figures


def test_a_folder_twice_is_refused(finished_study: Path) -> None:
    with pytest.raises(UserError, match="twice"):
        report_content([finished_study, finished_study])


def test_differences_are_against_the_first_study() -> None:
    content = report_content([PACK, Path("results/reference/vgg19-cifar10-published")])
    assert content.together is not None
    (table,) = content.together.tables
    for accuracy in {row[0] for row in table.rows}:
        first, second = (row for row in table.rows if row[0] == accuracy)
        if None not in (first[5], second[6]):
            assert first[6] is None
            assert second[6] == pytest.approx(second[5] - first[5])
            low, high = (float(one.replace("\u2212", "-")) for one in second[7].split(" to "))
            assert low < second[6] < high
            assert np.isclose(second[6] - low, high - second[6], rtol=0.05)


def test_a_report_imports_nothing_that_trains(finished_study: Path, tmp_path: Path) -> None:
    """Nor Optuna, where the front is an exact one."""
    code = (
        "import sys; from study.cli.main import main\n"
        f"main(['report', {str(PACK.absolute())!r}, '--output', 'exact.html'])\n"
        "print(sorted({'torch', 'ray', 'optuna'} & set(sys.modules)))\n"
        f"main(['report', {str(finished_study)!r}, '--output', 'searched.html'])\n"
        "print(sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines().count("[]") == 2, done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"exact.html", "searched.html"}


def test_constraints_that_are_no_axis_are_named(tmp_path: Path) -> None:
    limits = {"accuracy_drop": 0.01, "latency_p99": 0.002, "memory": 3e6}
    folder = fabricate(tmp_path / "limited", 40, 20, seconds=True)
    stored = yaml.safe_load((folder / "study.yaml").read_text())
    stored["study"]["operating_points"] |= {"constraints": limits, "costs": "jetson-tx2"}
    (folder / "study.yaml").write_text(yaml.safe_dump(stored))
    points = list(rows_of(read_table(folder / "tables", "operating_points")))
    broken = json.dumps({"accuracy_drop": -0.1, "latency_p99": 1e-4, "memory": 5.0})
    rows = [row | {"constraints": broken, "feasible": False} if place > 30 else row for place, row in enumerate(points)]
    write_part(folder / "tables", "operating_points", rows)
    content = report_content([folder])
    (study,) = content.studies
    assert study.points is not None
    assert study.points["limits"] == [
        "lost accuracy at most 1 point",
        "p99 latency at most 2 ms",
        "memory at most 3 MB",
    ]
    assert "p99 latency, memory" in study.points["broken"]["values"]
    page = report_page(content).decode()
    assert "The study asks for: lost accuracy at most 1 point; p99 latency at most 2 ms; memory at most 3 MB." in page
    assert "Shade what breaks a constraint" in page


def test_a_study_without_constraint_shades_a_loss(study: StudyContent) -> None:
    assert study.points is not None
    assert study.points["limits"] == []
    page = report_page(report_content([PACK])).decode()
    assert "Shade what breaks a constraint" not in page and "Shade a loss of more than 1 point" in page


def test_a_cut_that_is_nearly_as_cheap_is_named_first() -> None:
    (study,) = report_content([PACK]).studies
    assert study.first is not None
    assert "Nearly as cheap in energy is a plain cut at exit 8 (int8)" in study.first.why
    facts = {name: more for name, _, more in study.first.facts}
    assert "mean over the validation images" in facts["FLOPs per image"]


def test_each_kind_of_policy_has_its_rule(study: StudyContent) -> None:
    for points in (study.points, report_content([PACK]).studies[0].points):
        assert points is not None
        says, policy = points["says"], points["policy"]
        for place, on_front in enumerate(points["on_front"]):
            code = says["codes"][place]
            assert (code >= 0) == bool(on_front)
            name = policy["values"][policy["codes"][place]]
            if on_front and name in ("head_thresholds", "hierarchical", "predictive"):
                assert "under From" in says["values"][code]
                assert {"from", "beta"} & set(points["rule"][place])
            if on_front and name == "optimal_stopping":
                assert "stop" in "".join(points["rule"][place]["tables"].values())


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (-0.5, "number", "\u22120.5"),
        (-1e-5, "number", "\u22121e\u221205"),
        (-0.012, "points", "\u22121.20"),
        (-2, "count", "\u22122"),
    ],
)
def test_numbers_have_a_true_minus(value: float, kind: Kind, text: str) -> None:
    assert number_text(value, kind) == text


def test_the_balanced_accuracy_of_uneven_classes_is_told(finished_study: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished_study, tmp_path / "uneven")
    front = read_table(folder / "tables", "front")
    for path in (folder / "tables" / "front").iterdir():
        path.unlink()
    for balanced, told in (
        (front["test_accuracy"] - 0.2, True),
        (front["test_accuracy"] + 0.001, False),
        (None, False),
    ):
        write_part(folder / "tables", "front", list(rows_of(front.assign(test_balanced_accuracy=balanced))))
        (content,) = report_content([folder]).studies
        facts = str(content.first)
        assert ("balanced accuracy, the mean over the classes" in facts) is told


def test_the_costs_of_a_cascade_are_told_as_they_are_paid(
    study: StudyContent, finished_study: Path, tmp_path: Path
) -> None:
    def told(content: StudyContent) -> str:
        return next(section.see for section in content.sections if section.name == "costs")

    folder = shutil.copytree(finished_study, tmp_path / "cascade")
    costs = read_table(folder / "tables", "costs")
    costs.loc[costs["part"] == "head", "flops"] = 0.0
    for path in (folder / "tables" / "costs").iterdir():
        path.unlink()
    write_part(folder / "tables", "costs", list(rows_of(costs)))
    (content,) = report_content([folder]).studies
    assert told(content).startswith("The exits are a cascade: a segment holds the cost of its head.")
    assert "Heads together cost" in told(study) and "cascade" not in told(study)
