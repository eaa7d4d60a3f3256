"""Ctrl-C and SIGTERM end a study in one line, with nothing left running, held or lying about."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from commands import Command, checkpointed, held_locks, started  # type: ignore[import-not-found]
from faults import different_tables  # type: ignore[import-not-found]

from results.tables import part_count

STOPPED = "predictive-exit: stopped; the same command goes on from here"


def ctrl_c(command: Command) -> None:
    os.killpg(command.process.pid, signal.SIGINT)


def terminate(command: Command) -> None:
    os.kill(command.process.pid, signal.SIGTERM)


def test_ctrl_c_and_sigterm_end_phase_1_in_one_line_and_leave_nothing_behind(study_file: Path, tmp_path: Path) -> None:
    stop_twice(study_file, tmp_path)


@pytest.mark.slow
def test_a_study_that_was_stopped_twice_goes_on_to_the_same_tables(
    lived: dict[str, pd.DataFrame], study_file: Path, tmp_path: Path
) -> None:
    run_folder = stop_twice(study_file, tmp_path)
    with started(tmp_path, "run", study_file, "--storage", "runs") as command:
        assert command.wait() == 0, command.err
    assert different_tables(lived, run_folder) == {}


def stop_twice(study_file: Path, tmp_path: Path) -> Path:
    """Returns the run folder."""
    run_folder = tmp_path / "runs" / "small"
    for stop, code in ((ctrl_c, 130), (terminate, 143)):
        begun = time.time()
        with started(tmp_path, "run", study_file, "--storage", "runs") as command:
            command.wait_until(lambda since=begun: checkpointed(run_folder, since))
            assert held_locks(run_folder)
            stop(command)
            assert command.wait() == code
            assert not part_count(run_folder / "tables", "trials"), "it was over with phase 1: nothing was tested"
            assert command.err.splitlines()[-1] == STOPPED
            assert "Traceback" not in command.out + command.err
            assert held_locks(run_folder) == []
            assert list(command.temporary.iterdir()) == []
    return run_folder
