"""What ``compare`` prints and writes of a run folder, and that test traces are opened only when they are asked for."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from support.run_folders import ONE, run_folder

from study.cli.main import main
from study.cli.printing import PlainConsole

OPTIONS = ["--drop", "0.125", "--set", "operating_points.quantization=fp32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder without test traces."""
    whole = run_folder(tmp_path_factory.mktemp("compare") / "run", ONE)
    for path in list((whole / "traces").iterdir()):
        if "-test-" in path.name:
            shutil.move(path, whole.parent / path.name)
    return whole


def test_without_test_traces_policies_compare_on_validation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(folder), *OPTIONS]) == 0
    told = capsys.readouterr().out
    assert "chosen on validation for the least FLOPs, reported on validation" in told and "test" not in told
    assert (
        "hierarchical, margin" in told
        and "how well the confidence of an exit ranks" in told
        and "12.5 points lost on images that did not choose: least FLOPs by" in told
        and "that each was chosen as the cheapest of all, on the same images, is not in them" in told
    )
    assert main(["compare", str(folder), *OPTIONS, "--report-test"]) == 2
    assert "holds no test trace of" in capsys.readouterr().err


def test_rows_are_printed_as_json_and_written_as_a_table(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "rows.csv"
    assert main(["compare", str(folder), *OPTIONS, "--json", "--output", str(output)]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = pd.read_csv(output)
    assert written["family"].tolist() == [row["family"] for row in printed["comparison"]]
    assert not [name for name in written if name.startswith("test_")]
    assert {row["split"] for row in printed["predictions"]} == {"validation"}
    assert len(printed["ranking"]) == 4 and printed["smaller"] == []


def test_a_report_on_test_is_printed_when_it_is_asked_for(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "run"
    shutil.copytree(folder, whole)
    for path in folder.parent.iterdir():
        if path != folder:
            shutil.copytree(path, whole / "traces" / path.name)
    assert main(["compare", str(whole), *OPTIONS, "--report-test"]) == 0
    told = capsys.readouterr().out
    assert "reported on test" in told and " energy " in told and "test_" not in told
    assert main(["compare", str(whole), *OPTIONS, "--report-test", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["comparison"]
    assert all(row["test_samples"] == 16 for row in rows)


@pytest.mark.parametrize("width", [100, 160])
def test_no_cell_is_cut_in_a_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr("study.cli.printing.console_of", lambda: PlainConsole(width=width, highlight=False))
    assert main(["compare", str(folder), *OPTIONS]) == 0
    told = capsys.readouterr().out
    table = told.split("one fp32, ")[0]
    assert "…" not in table and all(len(line.rstrip()) <= width for line in table.splitlines())
    for heading in ("at most", "policy", "setting", "lost", "± 95 %", "FLOPs", "equal loss", "energy"):
        assert heading in table
    assert "max_softmax" in table and "mean_logit" in table


def test_a_figure_is_drawn_and_another_ending_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(folder), *OPTIONS, "--figure", str(tmp_path / "compare.svg")]) == 0
    assert "hierarchical, margin" in (tmp_path / "compare.svg").read_text("utf-8")
    capsys.readouterr()
    assert main(["compare", str(folder), *OPTIONS, "--figure", str(tmp_path / "compare.jpg")]) == 2
    assert "compare: --figure" in capsys.readouterr().err
