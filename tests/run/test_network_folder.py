"""A study in a network folder: no file moves from one folder to another there."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from support.faults import comparable_tables, different_tables
from support.studies import run_context, tiny_study

from study.run.run import run_study


def test_a_network_folder_is_as_good(finished_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the driver does, from the checkpoints of a finished study on: file by file."""

    def within_one_folder(rename):
        def operate(source, target, **options):
            if Path(source).parent != Path(target).parent:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
            return rename(source, target, **options)

        return operate

    folder = tmp_path / "tiny"
    for part in ("checkpoints", "traces"):
        shutil.copytree(finished_study / part, folder / part)
    damaged = folder / "tables" / "costs" / "part-digits.parquet"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"cut short")
    for name in ("rename", "replace", "link"):
        monkeypatch.setattr(os, name, within_one_folder(getattr(os, name)))
    run_study(tiny_study(), run_context(folder))
    assert different_tables(comparable_tables(finished_study), folder) == {}
    assert damaged.with_name(f"{damaged.name}.damaged").exists()
