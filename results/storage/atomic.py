"""Files that are whole or absent, also after a power failure."""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from results.storage.object_store import RemotePath
from results.storage.paths import Location

_DRAFT = re.compile(r"\..+\.[0-9a-f]{32}")
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)
"""Answers of file systems (some network folders) that keep their folders in their own way."""
_checks: list[Callable[[], None]] = []


def is_draft(name: str) -> bool:
    """Whether a file of this name was left by a :func:`write_atomic` that was killed."""
    return _DRAFT.fullmatch(name) is not None


@contextmanager
def checked_writes(check: Callable[[], None]) -> Iterator[None]:
    """Call ``check`` before each :func:`write_atomic` of this process while the body runs; it may raise."""
    _checks.append(check)
    try:
        yield
    finally:
        _checks.remove(check)


def write_atomic(path: Location, data: bytes, *, sync: bool = True) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    A local file is flushed to disk under a temporary name in the same folder, then renamed. An object is one PUT.

    Args:
        path: of the file; its folder is made where it is missing.
        data: the content.
        sync: flush the folder after the rename, so that the rename survives a power failure. Who writes several files
            may leave it out and call :func:`sync_folder` once.
    """
    for check in list(_checks):
        check()
    if isinstance(path, RemotePath):
        path.write_bytes(data)
        return
    _make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:  # the error of a full disk does not name the file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Location) -> None:
    """Flush the names in a local folder to disk: renames before the call survive a power failure after it."""
    if isinstance(folder, RemotePath):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make a folder and the missing folders above it, and flush the name of each."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
