"""What several test processes need is made once: each process gets a copy."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, place: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first process makes which asks for it, and the others wait for.

    Args:
        factory: of the temporary folders of this process.
        place: of the folder; its last part is the name of the folder.
        make: fills the folder.

    Returns:
        A copy of the folder that only this process sees.
    """
    own = factory.getbasetemp() / place
    if "PYTEST_XDIST_WORKER" not in os.environ:
        make(own)
        return own
    original = own.parents[len(Path(place).parts)] / place
    original.parent.mkdir(parents=True, exist_ok=True)
    with (original.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        whole = original.parent / "whole"
        if not whole.exists():
            make(original)
            whole.touch()
    return Path(shutil.copytree(original, own))
