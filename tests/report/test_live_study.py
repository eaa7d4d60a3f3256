"""The page and the state of a study that other processes write, move and damage meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.growing_study import FRONT, POINTS, GrowingStudy

from results.parts import write_part
from study.report import live_study
from study.report.live_state import live_state
from study.report.live_study import LiveStudy
from study.storage.locks import exclusive
from study.storage.strict_json import dumps


@pytest.fixture
def growing(tmp_path: Path) -> GrowingStudy:
    return GrowingStudy(tmp_path)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_SECONDS", "REST", "RETRY_SECONDS"):
        monkeypatch.setattr(live_study, name, 0.0)


def facts_of(folder: Path) -> dict[str, str]:
    return dict(live_state(folder).facts)


def test_each_stage_is_told(growing: GrowingStudy) -> None:
    folder = growing.folder
    state = live_state(folder)
    assert state.now == (
        "Not running, and not finished. The same `run` command goes on with this: training backbones on digits."
    )
    assert state.coming.startswith("There is nothing to plot yet. First come the learning curves")
    with exclusive(folder / ".lock", "a test"):
        assert live_state(folder).now == "Running: training backbones on digits."
        growing.train()
        assert live_state(folder).now == "Running: traces of the best networks, then the search, on digits."
        assert live_state(folder).coming == ""
        growing.search(0, 10)
        state = live_state(folder)
        assert state.now == "Running: search of operating points on digits."
        assert state.share == 10 / POINTS
        assert dict(state.facts)["Operating points"] == f"10 of {POINTS}"
        growing.search(10, POINTS)
        assert live_state(folder).now == "Running: evaluating the front on the test images of digits."


def test_trials_and_epochs_are_counted_from_checkpoints(finished_study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(finished_study, folder, ignore=shutil.ignore_patterns("tables", "traces"))
    before = live_state(folder)
    facts = dict(before.facts)
    assert before.share is not None and 0 < before.share <= 1
    assert facts["Time left"].startswith(("at most about", "seconds to minutes"))
    whole = facts_of(finished_study)
    assert facts["Trials"].endswith("0 failed") and whole["Trials"] == "5 done, 0 running, 0 left, 0 failed"
    assert facts["Epochs"].split()[0] == whole["Epochs"].split()[0]
    assert whole["Time left"] == "none"
    assert live_state(finished_study).now == "Finished."
    backbone = min((folder / "checkpoints").iterdir())
    (folder / "locks").mkdir(exist_ok=True)
    with exclusive(folder / "locks" / f"{backbone.name}.lock", "a test"):
        assert "1 running" in facts_of(folder)["Trials"]


def test_the_last_failures_are_told(growing: GrowingStudy) -> None:
    growing.train()
    growing.search(0, 2)
    write_part(
        growing.folder / "tables",
        "operating_points",
        [{"number": 2, "search": "made", "state": "FAIL", "error": "no such exit", "data": "digits"}],
        2,
    )
    rows = {name * 12: {"error": f"{name} is out of memory", "mode": "exits"} for name in "bc"}
    (growing.folder / "failures.json").write_text(dumps(rows))
    assert list(live_state(growing.folder).errors) == [
        "Trial cccccccccccc failed: c is out of memory",
        "Operating point 2 failed: no such exit",
    ]


def test_the_version_changes_with_the_tables_and_with_nothing_else(growing: GrowingStudy) -> None:
    study = LiveStudy(growing.folder)
    versions = [study.state()["version"]]
    for change in (growing.train, lambda: growing.search(0, 1), lambda: growing.search(1, 2), growing.finish):
        change()
        versions.append(study.state()["version"])
    assert len(set(versions)) == len(versions)
    growing.search(0, 2)  # a start writes parts again that are there
    (growing.folder / "failures.json").write_text("{}")
    assert study.state()["version"] == versions[-1]


def test_curves_grow_while_a_stage_trains_but_not_at_each_epoch(
    finished_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(finished_study, folder, ignore=shutil.ignore_patterns("tables", "traces", "checkpoints"))
    first, second = sorted((finished_study / "checkpoints").iterdir())[:2]
    study = LiveStudy(folder)
    assert live_state(folder).coming != "" and b"Learning curves" not in study.page()
    shutil.copytree(first, folder / "checkpoints" / first.name)
    before = study.state()["version"]
    assert live_state(folder).coming == ""
    monkeypatch.setattr(live_study, "CURVES_SECONDS", 0.0)
    versions = [study.state()["version"]]
    page = study.page().decode()
    assert "The last epoch of each trial" in page and first.name in page
    monkeypatch.setattr(live_study, "CURVES_SECONDS", 1e6)
    shutil.copytree(second, folder / "checkpoints" / second.name)
    versions.append(study.state()["version"])
    monkeypatch.setattr(live_study, "CURVES_SECONDS", 0.0)
    versions.append(study.state()["version"])
    assert before != versions[0] == versions[1] != versions[2]


def test_the_page_follows_the_tables_and_is_made_once_a_change(
    growing: GrowingStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    plain = live_study.report_page
    monkeypatch.setattr(live_study, "report_page", lambda *one, **more: made.append(1) or plain(*one, **more))
    study = LiveStudy(growing.folder)
    assert b'class="study"' not in study.page()
    growing.train()
    assert b"2 trials of training" in study.page()
    assert study.page() == study.page()
    assert len(made) == 2
    growing.search(0, POINTS)
    growing.finish()
    assert f"{POINTS} operating points, {FRONT} of them on the front".encode() in study.page()
    assert f'data-version="{study.state()["version"]}"'.encode() in study.page()
    assert len(made) == 3


def test_pages_leave_the_processor_to_the_study(growing: GrowingStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_study, "REST", 1e6)
    study = LiveStudy(growing.folder)
    with exclusive(growing.folder / ".lock", "a test"):
        study.page()
        version = study.state()["version"]
        growing.train()
        assert study.state()["version"] == version
        monkeypatch.setattr(study, "_rest_until", 0.0)
        assert study.state()["version"] != version
        study.page()
        version = study.state()["version"]
        growing.search(0, 3)
        assert study.state()["version"] == version
    assert study.state()["version"] != version, "the study has ended, and needs no processor"
    study.page()
    version = study.state()["version"]
    growing.search(3, 5)
    assert study.state()["version"] != version


def test_a_folder_that_is_moved_is_told_and_found_again(growing: GrowingStudy, tmp_path: Path) -> None:
    growing.train()
    study = LiveStudy(growing.folder)
    page, before = study.page(), study.state()
    away = growing.folder.rename(tmp_path / "away")
    state = study.state()
    assert state["problem"] == f"{growing.folder} is not there: it was moved or removed, or its disk is away"
    assert state["now"] == "The study cannot be read now. These numbers are the last ones read."
    assert study.state() == state
    assert state["version"] == before["version"] and state["facts"] == before["facts"]
    assert study.page() == page
    away.rename(growing.folder)
    assert study.state() == before


def test_a_watch_that_begins_without_a_folder_finds_it(growing: GrowingStudy, tmp_path: Path) -> None:
    growing.train()
    away = growing.folder.rename(tmp_path / "away")
    study = LiveStudy(growing.folder)
    assert b'class="study"' not in study.page()
    away.rename(growing.folder)
    study.state()
    assert b'class="study"' in study.page()
    assert study.state()["problem"] == ""


def test_a_damaged_study_file_is_told_and_the_page_before_stays(growing: GrowingStudy) -> None:
    growing.train()
    study = LiveStudy(growing.folder)
    page, file = study.page(), growing.folder / "study.yaml"
    content = file.read_bytes()
    file.write_bytes(content[:100])
    assert f"{file} cannot be read" in study.state()["problem"]
    assert study.page() == page
    assert f"{file} cannot be read" in study.state()["problem"]
    file.write_bytes(content)
    assert study.state()["problem"] == ""
    assert b'class="study"' in study.page()
    assert study.state()["problem"] == ""


def test_a_damaged_part_is_told_in_the_state_and_in_the_page(growing: GrowingStudy) -> None:
    growing.train()
    growing.search(0, 3)
    study = LiveStudy(growing.folder)
    study.page()
    part = growing.folder / "tables" / "operating_points" / "part-00001.parquet"
    content = part.read_bytes()
    part.write_bytes(content[:-30])
    assert f"{part} cannot be read as table operating_points" in study.state()["problem"]
    page = study.page().decode()
    assert f"{part} cannot be read as table operating_points" in page and "learning curves" in page.lower()
    part.write_bytes(content)
    study.page()
    assert study.state()["problem"] == ""


def test_a_fault_of_the_page_is_told_and_the_page_is_tried_again(
    growing: GrowingStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    growing.train()
    study = LiveStudy(growing.folder)

    def fail(folders: object) -> None:
        raise ZeroDivisionError("one\ntwo")

    monkeypatch.setattr(live_study, "RETRY_SECONDS", 1e6)
    with monkeypatch.context() as patched:
        patched.setattr(live_study, "report_content", fail)
        study.page()
        version = study.state()["version"]
        assert study.state()["problem"] == "ZeroDivisionError: one two"
    monkeypatch.setattr(study, "_rest_until", 0.0)
    assert study.state()["version"] != version
    assert b'class="study"' in study.page()
    assert study.state()["problem"] == ""


def test_names_are_escaped(growing: GrowingStudy, tmp_path: Path) -> None:
    growing.folder = growing.folder.rename(tmp_path / "<script>hit()<")
    for step in (lambda: None, growing.train):
        step()
        page = LiveStudy(growing.folder).page()
        assert b"<script>hit" not in page and b"&lt;script&gt;hit()&lt;" in page


def test_nothing_is_written_into_the_folder(growing: GrowingStudy) -> None:
    growing.train()
    before = sorted(growing.folder.rglob("*"))
    study = LiveStudy(growing.folder)
    study.page()
    study.state()
    assert sorted(growing.folder.rglob("*")) == before
