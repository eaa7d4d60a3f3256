"""The page of results says what the reference studies hold, and those can be read like any study."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from results.parts import read_table, rows_of
from search_spaces import load_space
from study.checkpoints.description import WeightsId
from study.cli.main import main
from study.run.plan import plan_trials

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference"
PACKS = sorted(path.parent for path in REFERENCE.glob("*/traces"))
STUDIES = sorted(REFERENCE.glob("*/study.yaml"))


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_results", ROOT / "docs" / "build_results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def blocks(builder: ModuleType, text: str) -> dict[str, str]:
    return {match[0].splitlines()[0]: match[0] for match in builder.BLOCK.finditer(text)}


def test_the_tables_of_training_are_those_of_the_studies(builder: ModuleType) -> None:
    text = builder.PAGE.read_text("utf-8")
    found = builder.build(text, lambda name, arguments: name in ("trials", "quality", "seeds"))
    assert blocks(builder, found) == blocks(builder, text)


def test_policies_compare_as_the_page_says(builder: ModuleType) -> None:
    """On the smallest of the studies; the others are left to the slow test."""
    text = builder.PAGE.read_text("utf-8")
    found = builder.build(text, lambda name, arguments: arguments.startswith("vgg19-quarter-fashion-mnist fp32"))
    assert blocks(builder, found) == blocks(builder, text)


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.parent.name)
def test_trials_are_named_as_their_study_names_them_today(study: Path) -> None:
    """A study that is run again from its file must find its trials by their names."""
    spec = load_space(str(study))
    trials = read_table(study.parent / "tables", "trials")
    digest = trials["data_digest"].iloc[0]
    backbones = {plan.trial_id: plan for plan in plan_trials(spec, "backbones", digest)}
    for trial in rows_of(trials):
        if trial["phase"] == "backbones":
            assert trial["trial_id"] in backbones
        else:
            own = backbones[WeightsId.parse(trial["parent"]).trial_id].network
            exits = plan_trials(spec, "exits", digest, backbone=own, parent=trial["parent"])
            assert trial["trial_id"] in {plan.trial_id for plan in exits}


def test_every_reference_study_is_described() -> None:
    text = (REFERENCE / "README.md").read_text("utf-8")
    named = re.findall(r"^\| `([\w*-]+)` \|", text, re.MULTILINE)
    folders = {path.name for path in REFERENCE.glob("*/")}
    assert {one for name in named for one in fnmatch.filter(folders, name)} == folders
    assert all(fnmatch.filter(folders, name) for name in named)


@pytest.mark.slow
def test_every_figure_of_the_page_follows_from_the_studies(builder: ModuleType) -> None:
    text = builder.PAGE.read_text("utf-8")
    assert blocks(builder, builder.build(text)) == blocks(builder, text)


@pytest.mark.parametrize("pack", PACKS, ids=lambda path: path.name)
def test_a_reference_study_draws_its_front(
    pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["front", str(pack), "--json", "--figure", str(tmp_path / "front.png")]) == 0
    assert json.loads(capsys.readouterr().out)
    assert (tmp_path / "front.png").stat().st_size > 10_000
    assert main(["front", str(pack), "--exact", "--json", "--set", "operating_points.policy=predictive"]) == 0
    assert len(json.loads(capsys.readouterr().out)["front"]) > 5
