"""The two executors leave the same tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from support.faults import comparable_tables, different_tables
from support.studies import surroundings, tiny_study

from study.run.run import run_study


def test_a_local_study_has_the_tables_of_one_on_ray(finished_study: Path, tmp_path: Path) -> None:
    """Bit for bit: both compute with one thread."""
    run_study(tiny_study(), replace(surroundings(tmp_path / "tiny"), local=True))
    assert different_tables(comparable_tables(finished_study), tmp_path / "tiny") == {}
