"""Ctrl-C and SIGTERM end a study in one line, with nothing left running, held or lying about."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support.commands import Command, checkpointed, held_locks, started
from support.faults import different_tables

from results.parts import part_count

STOPPED = "predictive-exit: stopped; the same command goes on from here"


def ctrl_c(command: Command) -> None:
    os.killpg(command.process.pid, signal.SIGINT)


def terminate(command: Command) -> None:
    os.kill(command.process.pid, signal.SIGTERM)


def test_sigterm_ends_phase_1_in_one_line_and_leaves_nothing_behind(study_file: Path, tmp_path: Path) -> None:
    run_until_stopped(terminate, 143, study_file, tmp_path)


@pytest.mark.slow
def test_stopped_by_ctrl_c_and_by_sigterm_a_study_goes_on_to_the_same_tables(
    lived: dict[str, pd.DataFrame], study_file: Path, tmp_path: Path
) -> None:
    run_until_stopped(ctrl_c, 130, study_file, tmp_path)
    run_until_stopped(terminate, 143, study_file, tmp_path)
    with started(tmp_path, "run", study_file, "--storage", "runs") as command:
        assert command.wait() == 0, command.err
    assert different_tables(lived, tmp_path / "runs" / "small") == {}


def run_until_stopped(stop: Callable[[Command], None], code: int, study_file: Path, tmp_path: Path) -> None:
    """Stop a start of the study when a trial of phase 1 has come forward, and look at what is left."""
    run_folder, begun = tmp_path / "runs" / "small", time.time()
    with started(tmp_path, "run", study_file, "--storage", "runs") as command:
        command.wait_until(lambda: checkpointed(run_folder, begun))
        assert held_locks(run_folder)
        stop(command)
        assert command.wait() == code
        assert not part_count(run_folder / "tables", "trials"), "it was over with phase 1: nothing was tested"
        assert command.err.splitlines()[-1] == STOPPED
        assert "Traceback" not in command.out + command.err
        assert held_locks(run_folder) == []
        assert list(command.temporary.iterdir()) == []
