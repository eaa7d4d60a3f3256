"""Temporary folders: of a process while it lives, removed by later processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from study.execution.ray.scratch import scratch_folder

MAKE = "import sys, time; from pathlib import Path; from study.execution.ray.scratch import scratch_folder; "
MAKE += "print(scratch_folder('ray-', Path(sys.argv[1])), flush=True); time.sleep(600)"


def test_folders_of_killed_processes_are_removed_and_no_others(tmp_path: Path) -> None:
    strangers = [tmp_path / "ray-of-someone-else", tmp_path / "other-1"]
    for one in strangers:
        one.mkdir()
    process = subprocess.Popen([sys.executable, "-c", MAKE, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        (theirs / "log").write_text("x")
        mine = scratch_folder("ray-", tmp_path)
        assert theirs.is_dir() and mine.is_dir(), "its process lives"
    finally:
        process.kill()
        process.wait()
    again = scratch_folder("ray-", tmp_path)
    assert not theirs.exists() and mine.is_dir() and again.is_dir()
    assert all(one.is_dir() for one in strangers), "no file of theirs tells that the process has ended"
