"""The real command in processes that can be watched, signalled and killed from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from results.storage.paths import Location
from study.execution.trial import trial_lock
from study.storage.locks import is_held
from support.faults import ROOT, family_of

LIMIT_SECONDS = 600.0
"""For anything that must happen: on a busy machine a worker alone takes a minute to start."""


class Command:
    """``predictive-exit`` in a session of its own, as a terminal would start it, with a temporary folder of its own.

    As a terminal would: Ctrl-C is not ignored, even if it is here.
    """

    def __init__(self, arguments: tuple[str | Path, ...], folder: Path, temporary: Path, **environment: str) -> None:
        self.temporary = temporary
        kept = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}  # of ray_instance
        kept["RAY_worker_niceness"] = "0"
        self._out, self._err = folder / f"{temporary.name}.out", folder / f"{temporary.name}.err"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "study.cli", *map(str, arguments)],
                env={**kept, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), **environment},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    @property
    def out(self) -> str:
        """All that it printed on stdout so far."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """All that it printed on stderr so far."""
        return self._err.read_text()

    def wait_until(self, condition: Callable[[], object], every: float = 0.05) -> None:
        """Wait for something that must happen before the command ends; see :func:`wait_until`."""
        wait_until(lambda: condition() or self.process.poll() is not None, every=every)
        assert self.process.poll() is None, f"it ended with {self.process.returncode} too soon:\n{self.err[-3000:]}"

    def wait(self) -> int:
        """Wait for its end, and for that of all that it started; returns its exit code."""
        code = self.process.wait(timeout=LIMIT_SECONDS)
        with suppress(TimeoutError):
            wait_until(lambda: not any(self.family()), 60)
        left = Counter(process.name() for process in self.family())
        assert not left, f"processes outlived the command by a minute: {dict(left)}"
        return code

    def family(self) -> Iterator[psutil.Process]:
        """Its living processes."""
        return family_of(self.process.pid)


@contextmanager
def started(folder: Path, *arguments: str | Path, **environment: str) -> Iterator[Command]:
    """The command while it runs; at the end of the block nothing of it is left, however the block ends."""
    with tempfile.TemporaryDirectory(prefix="pe-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        command = Command(arguments, folder, Path(temporary), **environment)
        try:
            yield command
        finally:
            for process in command.family():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            command.process.wait()


def wait_until(condition: Callable[[], object], seconds: float = LIMIT_SECONDS, every: float = 0.05) -> None:
    """Look again and again, ``every`` so many seconds, until the condition holds.

    Raises:
        TimeoutError: it never did.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not happen within {seconds:g} s")
        time.sleep(every)


def checkpointed(run_folder: Location, since: float = 0.0) -> set[str]:
    """The trials that published a checkpoint after this moment (seconds since 1970)."""
    found = set()
    for folder in (run_folder / "checkpoints").glob("*"):
        with suppress(FileNotFoundError):
            if (folder / "last" / "manifest.json").stat().st_mtime > since:
                found.add(folder.name)
    return found


def held_locks(run_folder: Location) -> list[str]:
    """The locks of a run folder that some process holds: the driver's, and those of trials."""
    locks = {"driver": run_folder / ".lock"}
    locks |= {trial: trial_lock(run_folder / "checkpoints", trial) for trial in checkpointed(run_folder)}
    return [name for name, lock in locks.items() if is_held(lock)]


def lease_of(run_folder: Location) -> str:
    """The last write of the driver's lease; empty without a lease, or where the lease was released."""
    path = run_folder / ".lock.lease"
    lease = json.loads(path.read_bytes()) if path.is_file() else {"renewed": 0}
    return str(lease["write"]) if lease["renewed"] else ""
