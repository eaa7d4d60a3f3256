"""A study whose run folder lies on an object store, behind a line that loses requests and answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from support.commands import checkpointed, held_locks, lease_of, started
from support.faults import STUDY, comparable_tables, different_tables
from support.studies import run_context

from results.parts import part_count
from results.storage.paths import location
from search_spaces.spec import validate_space
from study.cli.main import main
from study.run.run import run_study

if TYPE_CHECKING:
    from support.s3_server import S3Server

pytest_plugins = ["support.s3_server"]

SHORT = {**STUDY, "backbones": {**STUDY["backbones"], "trials": 2, "epochs": 8}}
SHORT["backbones"]["scheduler"] = {"kind": "halving", "first_rung": 4, "reduction": 2}
SHORT["operating_points"] = {**STUDY["operating_points"], "trials": 20, "networks": 1}
"""Each epoch is some ten requests."""
BAD_LINE = {"500": 0.01, "503": 0.02, "lost request": 0.02, "lost answer": 0.02}
LOOK_SECONDS = 0.25
"""A look at the store is some requests, which take as long as those of the study."""


@pytest.fixture
def short_file(tmp_path: Path) -> Path:
    """The study file."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(SHORT))
    return path


@pytest.mark.parametrize("where", ["--local", pytest.param("--no-report", id="on-ray", marks=pytest.mark.slow)])
def test_a_study_outlives_a_bad_line_and_the_death_of_its_driver(
    where: str,
    s3: S3Server,
    short_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its workers on Ray begin; the second start goes on in one process, or on Ray again."""
    with s3.faulty(BAD_LINE, seed=11) as line:
        storage = line.uri("runs")
        run, run_folder = ("run", short_file, "--storage", storage), location(storage) / "small"
        with started(tmp_path, *run) as command:
            command.wait_until(lambda: checkpointed(run_folder), LOOK_SECONDS)
            command.process.kill()
            command.process.wait()
        assert not part_count(run_folder / "tables", "trials"), "it was over with phase 1: nothing was tested"
        left = lease_of(run_folder)
        assert left, "a killed driver leaves its lease"
        with started(tmp_path, *run, where) as command:
            command.wait_until(lambda: lease_of(run_folder) not in ("", left), LOOK_SECONDS)
            with started(tmp_path, *run) as second:
                assert second.wait() == 2
            assert second.err == (
                f"predictive-exit: {run_folder}: another process works on it; wait for it, or end it\n"
            )
            assert command.wait() == 0, command.err
        run_study(validate_space(SHORT, "small"), run_context(tmp_path / "lived"))
        lived = comparable_tables(tmp_path / "lived")
        assert different_tables(lived, run_folder) == {}
        assert held_locks(run_folder) == [] and not lease_of(run_folder)
        capsys.readouterr()
        assert main(["status", str(run_folder), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["finished"]
        assert main(["front", str(run_folder), "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)["front"]) == len(lived["front"])
        assert all(line.injected[fault] for fault in BAD_LINE), line.injected
