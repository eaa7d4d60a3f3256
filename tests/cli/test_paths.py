"""A path that begins with ``~`` is below the home folder for each option, also behind ``=``."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import pytest
import yaml
from support.shelf import STUDY

from search_spaces.study_files import load_space
from study.cli.main import build_parser, main
from study.cli.options import data_request, name_or_path, path, run_folder

PATH_LIKE = (
    "path",
    "folder",
    "file",
    "dir",
    "storage",
    "pretrained",
    "output",
    "figure",
    "costs",
    "space",
    "root",
    "destination",
    "exported",
    "model",
    "images",
)
"""Words in the name or the help of an option that takes a path."""
NO_PATHS = {"--download", "--dry-run", "--extend", "--name", "--suffix", "--window", "--no-save", "--other-device"}
NO_PATHS |= {"--queue", "--max-images"}


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = [one for one in build_parser()._actions if isinstance(one, argparse._SubParsersAction)]
    return dict(action.choices)


def options_that_name_a_path() -> list[tuple[str, str]]:
    """Command, and option or argument."""
    found = []
    for name, parser in commands().items():
        for action in parser._actions:
            words = f"{action.dest} {action.metavar or ''}".lower()
            takes = any(word in words for word in PATH_LIKE) and action.nargs != 0
            if takes and not NO_PATHS & set(action.option_strings):
                found.append((name, (action.option_strings or [action.dest])[-1]))
    return found


NEEDED = {"run": ["quickstart"], "front": ["r"], "compare": ["r"], "status": ["r"], "pack": ["r", "d"]}
NEEDED |= {"report": ["r"], "export": ["r"], "predict": ["m", "i"], "watch": ["r"]}
"""The arguments without which a command does not parse."""


@pytest.mark.parametrize(("command", "option"), options_that_name_a_path())
def test_the_home_folder_is_meant_by_every_option(
    command: str, option: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    parser = build_parser()
    if option.startswith("--"):
        both = [[option, "~/x"], [f"{option}=~/x"]]
        parsed = [parser.parse_args([command, *NEEDED.get(command, []), *given]) for given in both]
    else:
        names = [action.dest for action in commands()[command]._actions if not action.option_strings]
        parsed = [parser.parse_args([command, *("~/x" if name == option else "y" for name in names)])]
    for options in parsed:
        value = getattr(options, option.lstrip("-").replace("-", "_"))
        if option == "--folder" and command != "run":
            value = data_request(options)["folder"]
        assert [Path(one) for one in (value if isinstance(value, list) else [value])] == [tmp_path / "x"]


def test_all_paths_are_among_the_options_that_were_tried() -> None:
    """A new option with the type of a path is found by its name, or this list of words is to be extended."""
    tried = set(options_that_name_a_path())
    assert len(tried) > 20
    for name, parser in commands().items():
        for action in parser._actions:
            if action.type in (path, name_or_path, run_folder):
                assert (name, (action.option_strings or [action.dest])[-1]) in tried


def test_paths_in_a_study_file_and_in_calls_mean_the_home_folder_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(STUDY))
    assert load_space("~/small.yaml").name == "small"
    for key in ("backbones.pretrained", "operating_points.costs", "data.folder"):
        command = f"run ~/small.yaml --set backbones.trials=1 --set {key}=~/gone"
        changed = " --set data.name=image_folder" if key == "data.folder" else ""
        assert main(shlex.split(command + changed)) == 2
        assert f"{tmp_path}/gone" in capsys.readouterr().err, key


@pytest.mark.parametrize("command", ["front ~nosuchuser/x", "train --output=~nosuchuser/x", "run ~nosuchuser/x.yaml"])
def test_an_unknown_home_folder_is_told_in_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(command.split())
    except SystemExit as exit:
        code = exit.code
    told = capsys.readouterr().err
    assert code == 2 and told.count("\n") == 1 and "~nosuchuser" in told and "home" in told
