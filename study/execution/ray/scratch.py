"""Temporary folders of a start, and the removal of those that killed starts left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_OWNER = "owner.lock"


def scratch_folder(prefix: str, parent: Path) -> Path:
    """A new temporary folder that belongs to this process while the process lives.

    The process holds a lock on a file of the folder; the kernel drops the lock with the process, however the process
    ends. Folders of the same prefix whose lock nobody holds are removed first.

    Args:
        prefix: of the folder's name.
        parent: an existing folder.
    """
    for old in parent.glob(f"{prefix}*"):
        _remove_if_left(old)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    descriptor = os.open(folder / _OWNER, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # held until the process ends
    return folder


def _remove_if_left(folder: Path) -> None:
    """Remove a folder of this user whose process has ended. A folder without a lock file is left alone."""
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return
        descriptor = os.open(folder / _OWNER, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return  # the process lives
    finally:
        os.close(descriptor)
