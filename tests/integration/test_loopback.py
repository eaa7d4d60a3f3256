"""Ray that a study starts for itself: closed to the network and to other users, and it runs this very code."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import results

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads the sockets of processes from /proc")


def family_of(process: int) -> set[int]:
    """A process and all that descend from it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
    family = {process}
    while grown := {child for child, parent in parents.items() if parent in family} - family:
        family |= grown
    return family


def listening(processes: set[int]) -> list[str]:
    """The addresses on which processes listen for TCP connections."""
    own = set()
    for process in processes:
        for path in Path(f"/proc/{process}/fd").glob("*"):
            try:
                own.add(str(path.readlink()))
            except OSError:
                continue
    addresses = []
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                words = bytes.fromhex(fields[1].partition(":")[0])  # 4 bytes each, in the machine's order
                swapped = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                addresses.append(socket.inet_ntop(family, swapped if sys.byteorder == "little" else words))
    return addresses


def reachable(addresses: list[str]) -> list[str]:
    """Those that another machine could connect to."""
    parsed = [ipaddress.ip_address(address) for address in addresses]
    plain = [getattr(address, "ipv4_mapped", None) or address for address in parsed]
    return [str(address) for address in plain if not address.is_loopback]


def test_no_other_machine_reaches_it(ray_instance: None) -> None:
    import ray

    ray.get(ray.remote(lambda: None).remote())  # a worker listens too
    # The cluster of other tests is started by its own command, which may be reached from other machines.
    clusters = [child.pid for child in psutil.Process().children() if "ray.scripts.scripts" in child.cmdline()]
    own = family_of(os.getpid()).difference(*map(family_of, clusters))
    addresses = listening(own)
    assert len(addresses) >= 4, "driver, worker, raylet and GCS"
    assert reachable(addresses) == []


def test_the_test_sees_open_ports() -> None:
    for family, everywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with socket.socket(family) as server:
            try:
                server.bind((everywhere, 0))
            except OSError:
                continue  # no IPv6 here
            server.listen()
            assert everywhere in reachable(listening({os.getpid()}))


def test_no_other_user_reaches_its_sockets(ray_instance: None) -> None:
    import ray

    session = Path(ray._private.worker._global_node.get_session_dir_path())
    closed = [folder for folder in session.parents if folder.stat().st_mode & 0o077 == 0]
    assert closed and closed[0].stat().st_uid == os.getuid()


def test_it_runs_nothing_of_the_working_directory_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """A folder with images or results of strangers may hold Python files too."""
    here, home = tmp_path / "here", tmp_path / "home"
    home.mkdir()
    for name in ("results/__init__.py", "torch.py", "study/__init__.py"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("raise SystemExit('code of the working directory was run')\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import ray\n"
        "from study.execution.ray.connection import start_ray\n"
        "start_ray(None)\n"
        "@ray.remote\n"
        "def place():\n"
        "    import importlib.util, results, study\n"
        "    return results.__file__, importlib.util.find_spec('torch').origin\n"
        "print(*ray.get(place.remote()))\n"
        "print(ray._private.worker._global_node.get_session_dir_path())\n"
    )
    root = Path(results.__file__).parents[1]
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(root)}
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, str(script)], cwd=here, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    used, torch, session = done.stdout.split()
    assert used == results.__file__ and here not in Path(torch).parents
    assert not Path(session).exists()
    assert not (home / ".ray").exists(), "a token that others may be able to read"
