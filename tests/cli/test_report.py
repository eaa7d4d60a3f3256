"""The command `report`, and the page that `run` writes at its end."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fabricated_study import fabricate
from support.permissions import bound_by_permissions
from support.studies import tiny_settings

from study.cli.main import main
from study.report import writing
from study.storage.strict_json import dumps


def test_the_page_lies_in_the_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fabricate(tmp_path / "made", 30, 10)
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"report: {folder / 'report.html'}\n"
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{folder}", "--output", "{folder}/page.pdf"], "must end in .html or .htm"),
        (["{folder}", "--output", "{folder}"], "must end in .html"),
        (["{folder}", "{other}"], "name the page of several runs with --output FILE"),
        (["{folder}", "{folder}", "--output", "{folder}/x.html"], "named twice"),
        (["{empty}"], "is no run folder"),
        (["{folder}", "--data-root", "data"], "belongs to --images"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, other, empty = fabricate(tmp_path / "made", 30, 10), tmp_path / "other", tmp_path / "empty"
    empty.mkdir()
    places = {"folder": folder, "other": other, "empty": empty}
    assert main(["report", *(one.format_map(places) for one in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not list(tmp_path.rglob("*.html"))


def test_a_read_only_folder_is_told_with_the_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fabricate(tmp_path / "made", 30, 10)
    folder.chmod(0o500)
    try:
        with bound_by_permissions():
            assert main(["report", str(folder)]) == 2
    finally:
        folder.chmod(0o700)
    assert "--output FILE" in capsys.readouterr().err


def test_images_are_shown_on_request_and_the_page_says_so(finished_study: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["report", str(finished_study), "--output", str(page), "--data-root", str(tmp_path), "--images"]) == 0
    text = page.read_text()
    assert "images of the data set: share the file only where" in text
    assert text.count("data:image/png;base64,") == 24
    assert main(["report", str(finished_study), "--output", str(page)]) == 0
    assert "data:image/png" not in page.read_text()


def test_run_ends_with_the_name_of_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "tiny.yaml"
    study.write_text(dumps(tiny_settings(operating_points={"trials": 10}, backbones={"trials": 1, "epochs": 1})))
    command = ["run", str(study), "--local", "--storage", str(tmp_path / "runs")]
    page = tmp_path / "runs" / "tiny" / "report.html"
    assert main([*command, "--no-report"]) == 0
    assert not page.exists()
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {page}"
    assert page.is_file()

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(writing, "write_report", broken)
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert "report" not in captured.out
    line = captured.err.splitlines()[-1]
    assert line == "the report could not be written (RuntimeError: two lines); the results are complete"
