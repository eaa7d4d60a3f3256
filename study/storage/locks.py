"""One writer at a time: of a run folder, and of a trial.

On a local file system, and on a network folder whose server keeps locks, the kernel holds the lock and drops it with
the process, however the process ends: there is no stale lock.

On an object store the lock is a *lease*: one object ``<lock>.lease`` that the holder renews by conditional PUTs. A
process takes the lease by replacing exactly the version that was released, or that nobody renewed for
:data:`SILENT_SECONDS`; the store lets one process replace a version. A holder that was silent for too long cannot renew
its lease any more: its next write raises :class:`HeldError`.
"""

from __future__ import annotations

import contextlib
import fcntl
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from results.storage.atomic import checked_writes
from results.storage.object_store import RemotePath, Version
from results.storage.paths import Location
from study.errors import UserError
from study.storage.strict_json import dumps, parse_json

RENEW_SECONDS = 5.0
SILENT_SECONDS = 20.0
"""A holder that has not renewed its lease for this time counts as dead."""


class HeldError(UserError):
    """Another process holds the lock."""


@contextmanager
def exclusive(path: Location, what: str, *, patience_seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock while the body runs.

    Args:
        path: of the lock; its folder must exist or be creatable.
        what: is held, for the message.
        patience_seconds: how long to wait for another holder to end.

    Raises:
        HeldError: another process holds the lock, or took it because this process was silent for too long. In the
            second case each :func:`results.storage.atomic.write_atomic` of this process raises the error.
        UserError: the file system of the folder has no locks.
    """
    held = HeldError(f"{what}: another process works on it; wait for it, or end it")
    if isinstance(path, RemotePath):
        lease = _Lease(path, what)
        lease.take(held, patience_seconds)
        try:
            with checked_writes(lease.check):
                yield
            lease.check()
        finally:
            lease.release()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        _lock(file.fileno(), path, held, patience_seconds)
        yield


def is_held(path: Location) -> bool:
    """Whether a process holds this lock now: a look from outside, which does not disturb the holder.

    A lease counts as held while its last renewal is recent, by the clock of this machine.
    """
    if isinstance(path, RemotePath):
        return time.time() - _renewed(_read(_lease_path(path))[0]) < SILENT_SECONDS
    if not path.is_file():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:  # any other error: the file system has no locks, so that nobody holds one
            return isinstance(error, BlockingIOError)
    return False


def _lock(descriptor: int, path: Path, held: HeldError, patience_seconds: float) -> None:
    """Take the kernel's lock of a file."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise held from None
            time.sleep(0.2)
        except OSError as error:
            told = f"{path} cannot be locked ({error.strerror}): give a --storage whose file system has locks"
            raise UserError(told) from None


class _Lease:
    """The lease of a lock on an object store. A thread renews the lease until :meth:`release`."""

    def __init__(self, lock: RemotePath, what: str) -> None:
        self._path = _lease_path(lock)
        self._lost = HeldError(f"{what}: this process was silent for too long, and another process took its place")
        self._version: Version | None = None
        """The version that this process wrote last; None where another process replaced that version."""
        self._renewed = 0.0
        self._turn = threading.Lock()
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._keep, daemon=True)

    def take(self, held: HeldError, patience_seconds: float) -> None:
        """Take the lease once it is released or silent. Clocks of different machines are never compared."""
        content, version = _read(self._path)
        since, deadline = time.monotonic(), time.monotonic() + patience_seconds
        while _renewed(content) and time.monotonic() - since <= SILENT_SECONDS:
            time.sleep(RENEW_SECONDS / 5)
            content, now = _read(self._path)
            if now != version:
                if _renewed(content) and time.monotonic() >= deadline:
                    raise held
                version, since = now, time.monotonic()
        self._write(version)
        if self._version is None:
            raise held
        self._renewing.start()

    def check(self) -> None:
        """Make sure that no other process took the lease.

        Raises:
            HeldError: another process took the lease.
            OSError: the store does not answer, and this process may have been silent for too long.
        """
        if abs(time.time() - self._renewed) > SILENT_SECONDS / 2:
            self._renew()
        if self._version is None:
            raise self._lost

    def release(self) -> None:
        """End the lease."""
        self._ended.set()
        self._renewing.join()
        with contextlib.suppress(OSError):  # without an answer of the store the lease falls silent
            self._renew(released=True)

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            with contextlib.suppress(OSError):  # the store does not answer: the next round tries again
                self._renew()

    def _renew(self, *, released: bool = False) -> None:
        with self._turn:
            if self._version is not None:
                self._write(self._version, released=released)

    def _write(self, replaced: Version | None, *, released: bool = False) -> None:
        now = time.time()
        content = dumps({"renewed": 0 if released else now, "write": uuid.uuid4().hex})
        self._version = self._path.write_if(content.encode(), replaced)
        self._renewed = now


def _lease_path(lock: RemotePath) -> RemotePath:
    return lock.with_name(f"{lock.name}.lease")


def _read(lease: RemotePath) -> tuple[bytes, Version | None]:
    """Content and version of a lease; empty and None where there is none."""
    try:
        return lease.read_version()
    except FileNotFoundError:
        return b"", None


def _renewed(content: bytes) -> float:
    """When a lease was renewed last, in seconds since 1970; 0 for a lease that is released, missing or damaged."""
    try:
        return float(parse_json(content)["renewed"])
    except (ValueError, TypeError, KeyError):
        return 0.0
