"""The connection to Ray: to a running cluster, or to Ray that this process starts on this machine."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

import ray
from ray._private import ray_constants, services, worker
from ray._private.node import Node
from ray.exceptions import AuthenticationError

import results
import search_spaces
import study
from study.errors import UserError
from study.execution.ray.scratch import scratch_folder


def start_ray(address: str | None) -> None:
    """Connect to a cluster, or start Ray on this machine for this process alone. A second call does nothing.

    Raises:
        UserError: no cluster answers at the address, or the cluster refuses the token.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Ctrl-C must reach this program: Tune would take it, and return half a phase as if the phase were whole.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(
        logging.CRITICAL
    )  # Tune logs a traceback for each failed trial; this program prints a line
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if address is None:
        _start_local()
    else:
        _connect(address)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # the handler of Ray ends without a line


def _start_local() -> None:
    """Start Ray so that no other machine and no other user of this machine can reach it.

    By itself Ray listens on all interfaces, keeps its sockets in a folder that everybody may write, and writes its
    token to a file that everybody may read.
    """
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # By itself Ray starts a worker for each CPU before it answers; Tune's actors use none of them.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    # A signal may end Ray's own processes together with this one: Ray would wait a minute for them before it gives up.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "3")
    root = os.environ.get("RAY_TMPDIR", tempfile.gettempdir())
    # The path of a socket has at most 107 bytes.
    folder = scratch_folder("ray-", Path(root if len(root) < 28 else "/tmp"))
    _local_folders.append(folder)
    atexit.register(_stop_local, folder)
    inner = str(folder / "r")  # Ray makes this folder writable for all
    with (
        # Ray takes this machine's address to be 127.0.0.1, as it does on Windows and macOS. Its ``_node_ip_address``
        # cannot say so: there it replaces a loopback address by the machine's outer one.
        _replaced(ray_constants, ENABLE_RAY_CLUSTER=False),
        # Nobody reads what these processes of Ray offer, and their start takes as long as the rest.
        _replaced(Node, start_api_server=_nothing, start_monitor=_nothing, start_log_monitor=_nothing),
        # Each process of Ray leads a group of its own: a signal to the group of this program must not end the node,
        # since Ray's core then ends this program, with a code of its own.
        _replaced(services, ConsolePopen=partial(services.ConsolePopen, process_group=0)),
        # The folder in which Ray is started stands first in the search path of the workers: the folder of this code.
        contextlib.chdir(Path(study.__file__).parents[1]),
    ):
        # "local": whatever RAY_ADDRESS says, or a file in /tmp that others could have written.
        ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, _temp_dir=inner)


_local_folders: list[Path] = []
"""The temporary folder of Ray on this machine, once Ray is started."""


def _stop_local(folder: Path) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave Ray's processes behind
    try:
        ray.shutdown()
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder of Ray. A process that is being stopped may still end a system call, which adds a file there."""
    for _ in range(_REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.02)


_REMOVALS = 50


def leave(code: int) -> NoReturn:
    """End this process at once with an exit code, after a signal that may have reached Ray's processes too.

    An orderly end would wait for processes that are gone, and Ray's core ends a process whose node is gone with a code
    of its own.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if _local_folders:
        _signal_node(signal.SIGSTOP)  # so that nothing writes into the folder while the folder is removed
        for folder in _local_folders:
            _remove(folder)
        _signal_node(signal.SIGKILL)
    else:
        ending = threading.Thread(target=ray.shutdown, daemon=True)
        ending.start()
        ending.join(_SHUTDOWN_SECONDS)
    os._exit(code)


_SHUTDOWN_SECONDS = 5.0


def _signal_node(number: int) -> None:
    """Send a signal to Ray's processes on this machine, with the workers and agents that they started."""
    node = worker._global_node
    for process in (one.process for kind in node.all_processes.values() for one in kind) if node else ():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


@contextmanager
def _replaced(owner: object, **values: object) -> Iterator[None]:
    """Give attributes other values while the body runs."""
    usual = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in usual.items():
            setattr(owner, name, value)


def _nothing(node: Node, **options: object) -> None:
    """In place of a process that Ray would start."""


def _connect(address: str) -> None:
    # For "auto" Ray takes RAY_ADDRESS where it is set.
    _refuse_unreachable((os.environ.get("RAY_ADDRESS") or address) if address == "auto" else address)
    # Folders, not modules: in a job, or under uv run, Ray makes a deep copy of what it is given, and a module has none.
    packages = [str(Path(str(package.__file__)).parent) for package in (study, search_spaces, results)]
    # An attempt takes a second where the token is wrong and half a minute where nothing answers; Ray makes twenty.
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "2")
    try:
        # The workers of a cluster get this very code, whatever is installed there. The folder in which the driver is
        # started would stand before it in their search path.
        with contextlib.chdir("/"):
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"py_modules": packages},
            )
    except (ConnectionError, ValueError, RuntimeError, AuthenticationError) as error:
        raise UserError(f"--address {address}: {_why_not_connected(error)}") from None


def _refuse_unreachable(address: str) -> None:
    """Refuse a wrong host or port at once."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not (colon and port.isdecimal()):
        raise UserError(
            f"--address {address}: expected auto, or HOST:PORT of the head; from outside the cluster use ray job submit"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--address {address}: nothing answers there ({error})") from None


def _why_not_connected(error: Exception) -> str:
    """The reason in one sentence; Ray gives several exceptions and a traceback."""
    told = f"{error} {error.__cause__ or error.__context__ or ''}"
    if isinstance(error, AuthenticationError) or "InvalidAuthToken" in told:
        reason = str(error).partition(". ")[0] if isinstance(error, AuthenticationError) else "it did not take this one"
        return (
            f"the cluster wants its token ({reason}): set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the token or "
            "RAY_AUTH_TOKEN_PATH to its file"
        )
    if isinstance(error, ConnectionError):
        return "no Ray cluster answers there; give HOST:PORT of its head, or start one with ray start --head"
    return str(error)
