"""One writer at a time, and none that lasts longer than its process."""

from __future__ import annotations

import errno
import fcntl
import json
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from results.storage.atomic import write_atomic
from results.storage.object_store import RemotePath
from results.storage.paths import location
from study.errors import UserError
from study.storage import locks
from study.storage.locks import HeldError, exclusive, is_held

if TYPE_CHECKING:
    from support.s3_server import S3Server

pytest_plugins = ["support.s3_server"]

HOLD = "import sys, time; from pathlib import Path; from study.storage.locks import exclusive\n" + (
    "with exclusive(Path(sys.argv[1]), 'it'):\n    print('held', flush=True); time.sleep(600)"
)


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "run" / ".lock"


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(locks, "SILENT_SECONDS", 1.0)


def test_a_lock_is_held_by_one_and_free_afterwards(lock: Path) -> None:
    with exclusive(lock, "runs/x"):
        assert is_held(lock)
        with pytest.raises(HeldError, match="runs/x: another process works on it"), exclusive(lock, "runs/x"):
            pass
    assert not is_held(lock)
    with exclusive(lock, "runs/x"):
        pass


def test_looking_at_a_lock_disturbs_nobody(lock: Path) -> None:
    assert not is_held(lock) and not lock.parent.exists()
    with exclusive(lock, "it"):
        assert all(is_held(lock) for _ in range(3))


def test_the_lock_of_a_killed_process_is_free(lock: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(HeldError), exclusive(lock, "it"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert lock.exists(), "the file is still there, but it is no lock"
    with exclusive(lock, "it"):
        pass


def test_who_is_patient_gets_the_lock_when_the_holder_ends(lock: Path) -> None:
    with exclusive(lock, "it"):
        got = threading.Event()

        def wait() -> None:
            with exclusive(lock, "it", patience_seconds=60):
                got.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not got.wait(0.5)
    assert got.wait(30)
    waiting.join()


def test_a_folder_whose_file_system_has_no_locks_is_refused(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    refused = pytest.raises(UserError, match=r"\.lock cannot be locked \(No locks available\): .*--storage")
    with refused, exclusive(lock, "it"):
        pass
    assert not is_held(lock)


@pytest.fixture
def leased(s3: S3Server, hurry: None) -> RemotePath:
    """The path of a lock on an object store."""
    lock = location(s3.uri(uuid.uuid4().hex)) / ".lock"
    assert isinstance(lock, RemotePath)
    return lock


def lease(lock: RemotePath) -> RemotePath:
    return lock.with_name(".lock.lease")


def test_a_lease_is_held_by_one_and_free_afterwards(leased: RemotePath) -> None:
    assert not is_held(leased)
    for _ in range(2):
        with exclusive(leased, "it"):
            assert is_held(leased)
            with pytest.raises(HeldError, match="it: another process works on it"), exclusive(leased, "it"):
                pass
            assert is_held(leased)
        assert not is_held(leased)


def test_a_lease_is_renewed(leased: RemotePath) -> None:
    with exclusive(leased, "it"):
        first = lease(leased).read_bytes()
        time.sleep(2 * locks.SILENT_SECONDS)
        assert lease(leased).read_bytes() != first and is_held(leased)
        write_atomic(leased.parent / "file", b"x")


def put_lease(lock: RemotePath, renewed: float) -> None:
    """The lease of another process."""
    lease(lock).write_bytes(json.dumps({"renewed": renewed, "write": uuid.uuid4().hex}).encode())


@pytest.mark.parametrize("ahead", [0, 10_000])
def test_a_silent_lease_is_taken_over(leased: RemotePath, ahead: float) -> None:
    """Clocks of different machines are not compared."""
    put_lease(leased, time.time() + ahead)
    start = time.monotonic()
    with exclusive(leased, "it"):
        assert time.monotonic() - start > locks.SILENT_SECONDS


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}', "\0", '{"renewed": "x"}'])
def test_a_damaged_lease_is_free(leased: RemotePath, content: str) -> None:
    lease(leased).write_bytes(content.encode())
    assert not is_held(leased)
    with exclusive(leased, "it"):
        pass


def test_one_of_many_processes_takes_a_silent_lease(leased: RemotePath) -> None:
    put_lease(leased, time.time())
    inside, refused = [], []

    def take(number: int) -> None:
        try:
            with exclusive(leased, "it"):
                inside.append(number)
                time.sleep(2 * locks.SILENT_SECONDS)
        except HeldError:
            refused.append(number)

    takers = [threading.Thread(target=take, args=(number,)) for number in range(6)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert len(inside) == 1 and len(refused) == 5


def test_who_lost_the_lease_stops_at_the_next_write(leased: RemotePath) -> None:
    """A process that slept for too long finds another in its place: it must not go on writing, nor be killed."""
    file = leased.parent / "file"
    with pytest.raises(HeldError, match="runs/x: this process was silent"), exclusive(leased, "runs/x"):
        write_atomic(file, b"mine")
        put_lease(leased, time.time())
        of_other = lease(leased).read_bytes()
        time.sleep(5 * locks.RENEW_SECONDS)
        write_atomic(file, b"late")
    assert file.read_bytes() == b"mine" and lease(leased).read_bytes() == of_other
    write_atomic(file, b"of a later task")


def test_a_process_that_was_stopped_asks_before_it_writes(leased: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that renews the lease may wake up after the one that writes."""
    monkeypatch.setattr(locks, "RENEW_SECONDS", 600.0)
    with pytest.raises(HeldError), exclusive(leased, "it"):
        write_atomic(leased.parent / "file", b"mine")
        lease(leased).unlink()
        time.sleep(locks.SILENT_SECONDS)
        write_atomic(leased.parent / "file", b"late")
    assert (leased.parent / "file").read_bytes() == b"mine"


def test_who_lost_the_lease_and_writes_nothing_is_told_at_the_end(leased: RemotePath) -> None:
    with pytest.raises(HeldError), exclusive(leased, "it"):
        lease(leased).unlink()
        time.sleep(5 * locks.RENEW_SECONDS)


def test_a_lease_outlives_a_bad_line(s3: S3Server, hurry: None) -> None:
    with s3.faulty({"503": 0.2, "lost answer": 0.2, "lost request": 0.1}, seed=3) as line:
        lock = location(line.uri(uuid.uuid4().hex)) / ".lock"
        with exclusive(lock, "it"):
            for number in range(10):
                time.sleep(0.2)
                write_atomic(lock.parent / "file", str(number).encode())
        assert not is_held(lock) and line.injected.total() > 5
