"""The two executors leave the same tables."""

from __future__ import annotations

from pathlib import Path

from support.faults import comparable_tables, different_tables
from support.studies import run_context, tiny_study

from study.run.run import run_study


def test_a_study_on_ray_has_the_tables_of_a_local_one(finished_study: Path, ray_instance: None, tmp_path: Path) -> None:
    """Bit for bit: both compute with one thread."""
    run_study(tiny_study(), run_context(tmp_path / "tiny", local=False))
    assert different_tables(comparable_tables(finished_study), tmp_path / "tiny") == {}
