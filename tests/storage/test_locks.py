"""One writer at a time, and none that lasts longer than its process."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from study.storage import locks
from study.storage.locks import HeldError, exclusive, is_held

HOLD = "import sys, time; from pathlib import Path; from study.storage.locks import exclusive\n" + (
    "with exclusive(Path(sys.argv[1]), 'it'):\n    print('held', flush=True); time.sleep(600)"
)


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "run" / ".lock"


@pytest.fixture
def no_kernel_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network folder whose server keeps no locks, and a hurry that tests are in."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
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


def test_without_kernel_locks_a_lease_does(lock: Path, no_kernel_locks: None) -> None:
    with exclusive(lock, "it"):
        assert is_held(lock)
        first = json.loads(lock.with_name(".lock.lease").read_text())
        with pytest.raises(HeldError), exclusive(lock, "it"):
            pass
        assert json.loads(lock.with_name(".lock.lease").read_text())["owner"] == first["owner"]
    assert not lock.with_name(".lock.lease").exists() and not is_held(lock)


LEASE = {"owner": "x", "host": "elsewhere", "process": 1, "renewed": 0.0}


def lease_of(lock: Path, **changed: object) -> None:
    lock.parent.mkdir(exist_ok=True)
    lock.with_name(".lock.lease").write_text(json.dumps({**LEASE, "renewed": time.time(), **changed}))


def test_a_lease_of_a_dead_process_of_this_machine_is_taken_over_at_once(lock: Path, no_kernel_locks: None) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    lease_of(lock, host=os.uname().nodename, process=process.pid)
    start = time.monotonic()
    with exclusive(lock, "it"):
        assert time.monotonic() - start < locks.SILENT_SECONDS


def test_a_lease_from_elsewhere_is_taken_over_when_it_falls_silent(lock: Path, no_kernel_locks: None) -> None:
    lease_of(lock, renewed=time.time() + 10_000)  # clocks of different machines are not compared
    start = time.monotonic()
    with exclusive(lock, "it"):
        assert time.monotonic() - start > locks.SILENT_SECONDS


@pytest.mark.parametrize("content", ["", "{", "[]", '{"owner": 1}', "\0", json.dumps({**LEASE, "process": -1})])
def test_a_damaged_lease_is_none(lock: Path, no_kernel_locks: None, content: str) -> None:
    lock.parent.mkdir()
    lock.with_name(".lock.lease").write_text(content)
    with exclusive(lock, "it"):
        pass


LOSE = """
import errno, fcntl, json, signal, sys, time
from pathlib import Path
from study import locks

def refuse(*_):
    raise OSError(errno.ENOLCK, "No locks available")

fcntl.flock, locks.RENEW_SECONDS, locks.SILENT_SECONDS, locks.LAST_SECONDS = refuse, 0.1, 1.0, 1.0
def leave(*_):
    raise KeyboardInterrupt

for name in sys.argv[2:]:
    if name == "leaves":
        signal.signal(signal.SIGTERM, leave)
        locks.LAST_SECONDS = 600
    else:
        signal.signal(signal.Signals[name], signal.SIG_IGN)
path = Path(sys.argv[1])
with locks.exclusive(path, "runs/x"):
    lease = path.with_name(".lock.lease")
    lease.write_text(json.dumps({**json.loads(lease.read_text()), "owner": "another"}))
    time.sleep(60)
"""


@pytest.mark.parametrize("manner", [[], ["SIGINT"], ["SIGINT", "SIGTERM"], ["leaves"]])
def test_who_lost_the_lease_ends(lock: Path, manner: list[str]) -> None:
    """A process that slept too long finds another in its place: it must not go on writing, whatever it ignores."""
    ended = subprocess.run(
        [sys.executable, "-c", LOSE, str(lock), *manner], capture_output=True, text=True, check=False
    )
    if "leaves" in manner:
        assert ended.returncode == -signal.SIGINT and "KeyboardInterrupt" in ended.stderr
    else:
        assert ended.returncode == -(signal.SIGKILL if "SIGTERM" in manner else signal.SIGTERM)
    assert "runs/x" in ended.stderr
    assert json.loads(lock.with_name(".lock.lease").read_text())["owner"] == "another"
