"""The script of the full-size runs: its studies are valid, its steps resume, and a failed step stops no other."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from search_spaces.spec import validate_space

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(DOCS))
    import full_size

    yield full_size
    sys.path.remove(str(DOCS))


@pytest.mark.parametrize("name", ["vgg19-cifar10", "resnet34-cifar10"])
def test_a_study_is_of_the_full_width_and_of_the_recipe(script: ModuleType, name: str) -> None:
    spec = validate_space(script.study_of(name), name)
    assert spec.backbones.width.values == (1.0,) and spec.backbones.backbone.values == (name.split("-")[0],)
    assert spec.exits.optimizer.values == ("muon",) and spec.operating_points.costs == "measured"


def test_a_step_that_fails_stops_no_other_and_a_finished_step_does_not_run_again(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images" / "train").mkdir(parents=True)
    counter = tmp_path / "counter"
    count = f"open({str(counter)!r}, 'a').write('x')"
    found = [
        script.Step("first", ((sys.executable, "-c", count),)),
        script.Step(
            "second", ((sys.executable, "-c", "print('why'); raise SystemExit(3)"), (sys.executable, "-c", count))
        ),
        script.Step("third", ((sys.executable, "-c", count),)),
    ]
    monkeypatch.setattr(script, "steps", lambda images, work: found)
    arguments = [str(tmp_path / "images"), str(tmp_path / "work")]
    assert script.main(arguments) == 1
    assert counter.read_text() == "xx"
    assert "failed: second" in capsys.readouterr().err
    assert "why" in (tmp_path / "work" / "logs" / "second.log").read_text()
    assert script.main(arguments) == 1 and counter.read_text() == "xx"


def test_the_commands_are_listed_and_a_missing_folder_is_told(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([str(tmp_path), str(tmp_path), "--list"]) == 0
    names = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# ")]
    assert names[0] == "# vgg19-cifar10" and len(names) == 6
    assert script.main([str(tmp_path), str(tmp_path)]) == 2
    assert "no folder train/" in capsys.readouterr().err
