"""One writer at a time: of a run folder, and of a trial.

On a local file system (and on NFS, where the server keeps locks) the kernel holds the lock and drops it with the
process, however that ends: there is no stale lock. Object stores, and folders whose file system knows no locks, get a
lease: a small file that its holder renews. A lease whose holder is silent is taken over. Two processes that take one at
the same moment are told apart by reading it back, which no object store guarantees: a lease is best effort.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from results.storage.atomic import write_atomic
from results.storage.paths import Location, is_no_file
from study.errors import UserError
from study.storage.strict_json import parse_json

RENEW_SECONDS = 5.0
SILENT_SECONDS = 20.0
"""A holder that has not renewed its lease for so long is taken for dead."""
LAST_SECONDS = 30.0
"""A process that lost its lease has so long to end by itself."""
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
        HeldError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = HeldError(f"{what}: another process works on it; wait for it, or end it")
    if isinstance(path, Path):
        with path.open("a") as file:
            if _locked(file.fileno(), held, patience_seconds):
                yield
                return
    with _lease(path.with_name(f"{path.name}.lease"), what, held, patience_seconds):
        yield


def is_held(path: Location) -> bool:
    """Whether a process holds this lock now: a look from outside, which does not disturb the holder.

    A lease counts as held while it was renewed lately, by the clock of this machine against that of the storage.
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
    lease = _read(path.with_name(f"{path.name}.lease"))
    return lease is not None and not _is_dead(lease) and time.time() - lease["renewed"] < SILENT_SECONDS


def _locked(descriptor: int, held: HeldError, patience_seconds: float) -> bool:
    """True with the kernel's lock; False where the file system knows none."""
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


@contextmanager
def _lease(path: Location, what: str, held: HeldError, patience_seconds: float) -> Iterator[None]:
    _wait_for_silence(path, held, patience_seconds)
    owner = uuid.uuid4().hex
    _write(path, owner)
    time.sleep(min(1.0, RENEW_SECONDS / 2))  # who else has just taken it
    if (_read(path) or {}).get("owner") != owner:
        raise held
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(path, what, owner, ended), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        if (_read(path) or {}).get("owner") == owner:
            path.unlink(missing_ok=True)


def _wait_for_silence(path: Location, held: HeldError, patience_seconds: float) -> None:
    """Return once nobody renews the lease any more. Clocks of different machines are never compared."""
    seen = _read(path)
    since, deadline = time.monotonic(), time.monotonic() + patience_seconds
    while seen is not None and not _is_dead(seen):
        if time.monotonic() - since > SILENT_SECONDS:
            return
        time.sleep(RENEW_SECONDS / 5)
        now = _read(path)
        if now != seen:
            if now is not None and time.monotonic() >= deadline:
                raise held
            seen, since = now, time.monotonic()


def _renew(path: Location, what: str, owner: str, ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        with contextlib.suppress(OSError):  # the storage is away; the next round tries again
            lease = _read(path)
            if lease is not None and lease["owner"] != owner:
                print(f"{what}: this process was silent too long, and another took its place", file=sys.stderr)
                _end_this_process(ended)
                return
            _write(path, owner)


def _end_this_process(ended: threading.Event) -> None:
    """What it writes from now on would mix with what the other writes: it leaves the body of the lock, or dies."""
    # Not SIGINT: Ray's workers block it, and a shell starts what it puts in the background without it.
    os.kill(os.getpid(), signal.SIGTERM)
    if not ended.wait(LAST_SECONDS):
        os.kill(os.getpid(), signal.SIGKILL)


def _write(path: Location, owner: str) -> None:
    lease = {"owner": owner, "host": socket.gethostname(), "process": os.getpid(), "renewed": time.time()}
    write_atomic(path, json.dumps(lease).encode())


def _read(path: Location) -> dict[str, Any] | None:
    """The lease; None without one, and for one that is no lease (cut short by a file system that is not atomic)."""
    try:
        lease = {} if is_no_file(path) else parse_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    kinds = {"owner": str, "host": str, "process": int, "renewed": int | float}
    good = isinstance(lease, dict) and all(isinstance(lease.get(name), kind) for name, kind in kinds.items())
    return lease if good and lease["process"] > 0 else None


def _is_dead(lease: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is gone."""
    if lease["host"] != socket.gethostname():
        return False
    with contextlib.suppress(PermissionError):  # it lives, and is another user's
        try:
            os.kill(int(lease["process"]), 0)
        except (ProcessLookupError, OverflowError):
            return True
    return False
