"""One writer at a time: of a run folder, and of a trial.

On a local file system (and on NFS, where the server keeps locks) the kernel holds the lock and drops it with the
process, however the process ends: there is no stale lock.

Object stores, and folders whose file system knows no locks, get a *lease*: a small file ``<lock>.lease-<number>`` that
the holder renews. A process takes the lock when it creates the lease of the next number, after the newest lease was
released or fell silent. A storage lets exactly one process create a file of a new name (on object stores by a
conditional PUT), so exactly one process takes the lock. A holder that was silent for too long cannot renew its lease
any more: its next write raises :class:`HeldError`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from results.storage.atomic import checked_writes
from results.storage.paths import Location
from results.storage.remote_paths import RemotePath
from study.errors import UserError
from study.storage.strict_json import dumps, parse_json

RENEW_SECONDS = 5.0
SILENT_SECONDS = 20.0
"""A holder that has not renewed its lease for this time counts as dead."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class HeldError(UserError):
    """Another process holds the lock."""


@contextmanager
def exclusive(path: Location, what: str, *, patience_seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock while the body runs.

    Args:
        path: of the lock file; its folder must exist or be creatable.
        what: is held, for the message.
        patience_seconds: how long to wait for another holder to end.

    Raises:
        HeldError: another process holds the lock, or took it because this process was silent for too long. In the
            second case each :func:`results.storage.atomic.write_atomic` of this process raises the error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = HeldError(f"{what}: another process works on it; wait for it, or end it")
    if isinstance(path, Path):
        with path.open("a") as file:
            if _locked(file.fileno(), held, patience_seconds):
                yield
                return
    lease = _Lease(path, what, _wait_for_silence(path, held, patience_seconds) + 1)
    if not lease.take():
        raise held
    try:
        with checked_writes(lease.check):
            yield
        lease.check()
    finally:
        lease.release()


def is_held(path: Location) -> bool:
    """Whether a process holds this lock now: a look from outside, which does not disturb the holder.

    A lease counts as held while its last renewal is recent, by the clock of this machine.
    """
    if isinstance(path, Path) and path.is_file():
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
            else:
                return False
    _, content = _newest(path)
    return not _is_over(content) and time.time() - _parsed(content).get("renewed", 0.0) < SILENT_SECONDS


def _locked(descriptor: int, held: HeldError, patience_seconds: float) -> bool:
    """True with the kernel's lock; False where the file system knows no locks."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise held from None
            time.sleep(0.2)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            raise


class _Lease:
    """The lease of one number. A thread renews it until :meth:`release`."""

    def __init__(self, lock: Location, what: str, number: int) -> None:
        self._lock, self._number = lock, number
        self._lost = HeldError(f"{what}: this process was silent for too long, and another process took its place")
        self._is_lost = False
        self._tag: str | None = None
        self._renewed = 0.0
        self._turn = threading.Lock()
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._keep, daemon=True)

    def take(self) -> bool:
        """Create the lease; False where another process was faster."""
        self._tag = _create(_lease_path(self._lock, self._number), self._content())
        if self._tag is None:
            return False
        self._renewed = time.time()
        for number in _numbers(self._lock):
            if number < self._number:
                _lease_path(self._lock, number).unlink(missing_ok=True)
        self._renewing.start()
        return True

    def check(self) -> None:
        """Make sure that no other process took the lock.

        Raises:
            HeldError: another process took the lock.
            OSError: the storage does not answer, and this process may have been silent for too long.
        """
        if not self._is_lost and abs(time.time() - self._renewed) > SILENT_SECONDS / 2:
            self._renew()
        if self._is_lost:
            raise self._lost

    def release(self) -> None:
        """End the lease. Its file stays, so that its number is never given again."""
        self._ended.set()
        self._renewing.join()
        with contextlib.suppress(OSError):  # without an answer of the storage the lease falls silent
            self._renew(released=True)

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_SECONDS) and not self._is_lost:
            with contextlib.suppress(OSError):  # the storage does not answer: the next round tries again
                self._renew()

    def _renew(self, *, released: bool = False) -> None:
        with self._turn:
            if self._is_lost:
                return
            tag = None
            if not _lease_path(self._lock, self._number + 1).is_file():
                content = self._content(released=released)
                tag = _overwrite(_lease_path(self._lock, self._number), content, self._tag)
            if tag is None:
                self._is_lost = True
            else:
                self._tag, self._renewed = tag, time.time()

    def _content(self, *, released: bool = False) -> bytes:
        owner = {"host": socket.gethostname(), "process": os.getpid(), "write": uuid.uuid4().hex}
        return dumps({**owner, "renewed": time.time(), "released": released}).encode()


def _lease_path(lock: Location, number: int) -> Location:
    return lock.with_name(f"{lock.name}.lease-{number}")


def _numbers(lock: Location) -> list[int]:
    numbers = (path.name.rpartition("-")[2] for path in lock.parent.glob(f"{lock.name}.lease-*"))
    return sorted(int(number) for number in numbers if number.isdecimal())


def _newest(lock: Location) -> tuple[int, bytes | None]:
    """Number and content of the newest lease; 0 and None without one."""
    while numbers := _numbers(lock):
        with contextlib.suppress(FileNotFoundError):  # a newer lease was taken meanwhile
            return numbers[-1], _lease_path(lock, numbers[-1]).read_bytes()
    return 0, None


def _wait_for_silence(lock: Location, held: HeldError, patience_seconds: float) -> int:
    """The number of the newest lease, once nobody renews it. Clocks of different machines are never compared."""
    seen = _newest(lock)
    since, deadline = time.monotonic(), time.monotonic() + patience_seconds
    while not _is_over(seen[1]) and time.monotonic() - since <= SILENT_SECONDS:
        time.sleep(RENEW_SECONDS / 5)
        now = _newest(lock)
        if now != seen:
            if not _is_over(now[1]) and time.monotonic() >= deadline:
                raise held
            seen, since = now, time.monotonic()
    return seen[0]


def _parsed(content: bytes | None) -> dict[str, Any]:
    """The fields of a lease; none where the file is damaged, or was read in the middle of a renewal."""
    try:
        lease = parse_json(content or b"")
    except ValueError:
        return {}
    kinds = {"host": str, "process": int, "renewed": int | float, "released": bool}
    good = isinstance(lease, dict) and all(isinstance(lease.get(name), kind) for name, kind in kinds.items())
    return lease if good and lease["process"] > 0 else {}


def _is_over(content: bytes | None) -> bool:
    """Whether a lease was released, or its holder was a process of this machine that is gone."""
    if content is None:
        return True
    lease = _parsed(content)
    if not lease or lease["released"]:
        return bool(lease)
    if lease["host"] == socket.gethostname():
        with contextlib.suppress(PermissionError):  # the process lives, and belongs to another user
            try:
                os.kill(int(lease["process"]), 0)
            except (ProcessLookupError, OverflowError):
                return True
    return False


def _create(path: Location, content: bytes) -> str | None:
    """Create a file of a new name; returns a tag for :func:`_overwrite`, or None where the file exists."""
    if isinstance(path, RemotePath):
        return path.write_if(content, None)
    try:
        with Path(str(path)).open("xb") as file:
            file.write(content)
    except FileExistsError:
        return None
    return ""


def _overwrite(path: Location, content: bytes, tag: str | None) -> str | None:
    """Overwrite a file that exists; returns its new tag, or None where the file was removed or replaced."""
    if isinstance(path, RemotePath):
        return path.write_if(content, tag)
    try:
        with Path(str(path)).open("r+b", buffering=0) as file:
            file.write(content)
            file.truncate()
    except FileNotFoundError:
        return None
    return ""
