"""The page of results says what the reference studies hold, and those can be read like any study."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from study.cli import main

ROOT = Path(__file__).parents[1]
PACKS = sorted(path.parent for path in (ROOT / "results" / "reference").glob("*/traces"))


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
    found = builder.build(text, lambda name, arguments: name in ("trials", "validation"))
    assert blocks(builder, found) == blocks(builder, text)


def test_policies_compare_as_the_page_says(builder: ModuleType) -> None:
    """On the smallest of the studies; the others are left to the slow test."""
    text = builder.PAGE.read_text("utf-8")
    found = builder.build(text, lambda name, arguments: arguments == "vgg19-quarter-fashion-mnist fp32")
    assert blocks(builder, found) == blocks(builder, text)


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
