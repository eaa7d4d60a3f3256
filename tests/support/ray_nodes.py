"""A Ray cluster of several nodes on this machine: each node is a ``ray start`` with a loopback address of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from support.commands import wait_until
from support.faults import family_of

TOKEN = "0123456789abcdef" * 4
CREDENTIALS = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
"""What a driver needs in its environment to be let in."""


class Node:
    """One node, in a session of its own; ``options`` are those of ``ray start``."""

    def __init__(
        self,
        host: str,
        folder: Path,
        options: Sequence[str],
        before: Sequence[str | Path] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.host = host
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        ray += ["--include-log-monitor=false"]  # nobody reads the logs of workers here
        always = [f"--node-ip-address={host}", "--dashboard-agent-listen-port=0", f"--object-store-memory={80 * 2**20}"]
        # Without workers that wait for a driver: each imports Ray, and few are ever used.
        own = {"RAY_TMPDIR": str(folder), "RAY_worker_niceness": "0", "RAY_prestart_worker_first_driver": "0"}
        log = folder / f"{host}.txt"
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [*map(str, before), *ray, *always, *options],
                env={**kept, **CREDENTIALS, **own, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        wait_until(lambda: "Ray runtime started" in log.read_text() or self.process.poll() is not None)
        assert self.process.poll() is None, log.read_text()[-3000:]

    def workers_on(self, run_folder: Path) -> dict[str, psutil.Process]:
        """The trials whose lock this node's processes have open, and which process."""
        found = {}
        for process in family_of(self.process.pid):
            with suppress(psutil.Error):
                for file in process.open_files():
                    if Path(file.path).parent == run_folder.resolve() / "locks":
                        found[Path(file.path).stem] = process
        return found

    def kill(self) -> None:
        """As when its machine loses power."""
        while family := list(family_of(self.process.pid)):
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            psutil.wait_procs(family, timeout=0.1)
        self.process.wait()


class Cluster:
    """A head, and nodes that come and go."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.hosts = folder, iter(f"127.0.0.{number}" for number in range(1, 255))
        port, host = free_port(), next(self.hosts)
        self.address = f"{host}:{port}"
        self.head = Node(host, folder, ["--head", f"--port={port}", "--include-dashboard=false", *options])

    @contextmanager
    def node(
        self, *options: str, before: Sequence[str | Path] = (), environment: Mapping[str, str] | None = None
    ) -> Iterator[Node]:
        """One more node; killed at the end of the block. ``before``: the command line that starts ``ray start``."""
        node = Node(next(self.hosts), self.folder, [f"--address={self.address}", *options], before, environment)
        try:
            yield node
        finally:
            node.kill()


@contextmanager
def cluster(*options: str) -> Iterator[Cluster]:
    """A cluster with a head; ``options`` are those of its ``ray start``."""
    # Ray's sockets go in the folder: its path must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = Cluster(Path(folder), *options)
        try:
            yield made
        finally:
            made.head.kill()


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
