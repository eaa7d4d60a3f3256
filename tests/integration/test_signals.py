"""Ctrl-C and SIGTERM end a study in one line, with nothing left running, held or lying about."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support.commands import LIMIT_SECONDS, Command, checkpointed, held_locks, started, wait_until
from support.faults import different_tables

from results.parts import part_count

MOST_SECONDS = 10.0
"""From the signal to the end: some two seconds on an idle machine; 90 while Ray waits for processes that are gone."""
STOPPED = "predictive-exit: stopped; the same command goes on from here"


def ctrl_c(command: Command) -> None:
    os.killpg(command.process.pid, signal.SIGINT)


def terminate(command: Command) -> None:
    os.kill(command.process.pid, signal.SIGTERM)


def terminate_all(command: Command) -> None:
    """As ``timeout``, ``kill %1``, a batch system and systemd do: Ray's own processes get the signal too."""
    os.killpg(command.process.pid, signal.SIGTERM)


def hang_up(command: Command) -> None:
    """As a terminal that is closed."""
    os.killpg(command.process.pid, signal.SIGHUP)


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (terminate_all, 143),
        pytest.param(terminate, 143, marks=pytest.mark.slow),
        pytest.param(hang_up, 129, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_phase_1_in_one_line_and_leaves_nothing_behind(
    stop: Callable[[Command], None], code: int, study_file: Path, tmp_path: Path
) -> None:
    run_until_stopped(stop, code, study_file, tmp_path)


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
        told = time.monotonic()
        assert command.process.wait(LIMIT_SECONDS) == code
        assert time.monotonic() - told < MOST_SECONDS
        assert command.wait() == code
        assert not part_count(run_folder / "tables", "trials"), "it was over with phase 1: nothing was tested"
        assert command.err.splitlines()[-1] == STOPPED
        assert "Traceback" not in command.out + command.err
        # A process that is no longer listed holds its files until the last of its threads has ended.
        wait_until(lambda: not held_locks(run_folder), 10)
        assert list(command.temporary.iterdir()) == []
