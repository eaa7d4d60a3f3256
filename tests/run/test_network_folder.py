"""A study in a network folder: file locks are not known there, and no file moves from one folder to another."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

import pytest
from support.commands import held_locks, lease_of
from support.faults import comparable_tables, different_tables
from support.studies import run_context, tiny_study

from study.run.run import mend, run_study


def test_a_network_folder_without_locks_is_as_good(
    finished_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the driver does, from the checkpoints of a finished study on: under a lease, and file by file."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def within_one_folder(rename):
        def operate(source, target, **options):
            if Path(source).parent != Path(target).parent:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
            return rename(source, target, **options)

        return operate

    def mend_under_a_lease(folder: Path) -> None:
        assert lease_of(folder) and held_locks(folder) == ["driver"]
        mend(folder)

    folder = tmp_path / "tiny"
    for part in ("checkpoints", "traces"):
        shutil.copytree(finished_study / part, folder / part)
    damaged = folder / "tables" / "costs" / "part-digits.parquet"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"cut short")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    for name in ("rename", "replace", "link"):
        monkeypatch.setattr(os, name, within_one_folder(getattr(os, name)))
    monkeypatch.setattr("study.run.run.mend", mend_under_a_lease)
    run_study(tiny_study(), run_context(folder))
    assert different_tables(comparable_tables(finished_study), folder) == {}
    assert damaged.with_name(f"{damaged.name}.damaged").exists()
    assert not lease_of(folder)
