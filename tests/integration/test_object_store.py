"""Studies where storage is not a local disk: an object store behind a bad line, a network folder without locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from support.commands import checkpointed, held_locks, started
from support.faults import comparable_tables, different_tables
from support.studies import surroundings, tiny_study

from results.parts import part_count
from results.storage.paths import Location, location
from study.run.run import mend, run_study

if TYPE_CHECKING:
    from support.s3_server import S3Server

pytest_plugins = ["support.s3_server"]

BAD_LINE = {"500": 0.01, "503": 0.02, "lost request": 0.02, "lost answer": 0.02}


def test_a_study_outlives_a_bad_line_and_the_death_of_its_driver(
    s3: S3Server, lived: dict[str, pd.DataFrame], study_file: Path, tmp_path: Path
) -> None:
    with s3.faulty(BAD_LINE, seed=11) as line:
        storage = line.uri("runs")
        run, run_folder = ("run", study_file, "--storage", storage), location(storage) / "small"
        with started(tmp_path, *run) as command:
            command.wait_until(lambda: checkpointed(run_folder))
            command.process.kill()
            command.process.wait()
        assert not part_count(run_folder / "tables", "trials"), "it was over with phase 1: nothing was tested"
        left = lease_of(run_folder)
        assert left, "a killed driver leaves its lease"
        with started(tmp_path, *run) as command:
            command.wait_until(lambda: lease_of(run_folder) not in ("", left))
            with started(tmp_path, *run) as second:
                assert second.wait() == 2
            assert second.err == (
                f"predictive-exit: {run_folder}: another process works on it; wait for it, or end it\n"
            )
            assert command.wait() == 0, command.err
        assert different_tables(lived, run_folder) == {}
        assert held_locks(run_folder) == [] and not lease_of(run_folder)
        for view in (("status", str(run_folder), "--json"), ("front", str(run_folder), "--json")):
            with started(tmp_path, *view) as command:
                assert command.wait() == 0, command.err
            printed = json.loads(command.out)
            assert printed["finished"] if view[0] == "status" else len(printed["front"]) == len(lived["front"])
        assert all(line.injected[fault] for fault in BAD_LINE), line.injected


def lease_of(run_folder: Location) -> str:
    """The newest lease of the driver; empty without one, or where it was released."""
    names = sorted((path.name for path in run_folder.glob(".lock.lease-*")), key=lambda name: (len(name), name))
    return names[-1] if names and not json.loads((run_folder / names[-1]).read_bytes())["released"] else ""


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
    run_study(tiny_study(), surroundings(folder))
    assert different_tables(comparable_tables(finished_study), folder) == {}
    assert damaged.with_name(f"{damaged.name}.damaged").exists()
    assert not lease_of(folder)
