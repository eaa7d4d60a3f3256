"""Connecting to a Ray cluster: what is wrong is told in one line, and what runs there is the driver's own code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.ray_nodes import TOKEN, Cluster, free_port

import results
from study.errors import UserError
from study.execution.ray.connection import _refuse_unreachable, _remove

# Connects, and tells which code a worker imports.
CLIENT = """
import sys
import ray
from study.errors import UserError
from study.execution.ray.connection import start_ray
try:
    start_ray(sys.argv[1])
except UserError as error:
    sys.exit(f"refused: {error}")
@ray.remote
def place():
    import results
    return results.__file__
print(ray.get(place.remote()))
"""


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # The head listens on loopback alone, as Ray does on macOS; its clients must look for it there.
    return {**kept, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **changes}


def connect(address: str, folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    script = folder / "client.py"
    script.write_text(CLIENT)
    for name in ("home", "here"):
        (folder / name).mkdir(exist_ok=True)
    root = Path(results.__file__).parents[1]
    surroundings = environment(HOME=str(folder / "home"), PYTHONPATH=str(root), **changes)
    return subprocess.run(
        [sys.executable, str(script), address],
        cwd=folder / "here",
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_right_token_lets_in_and_workers_run_the_code_of_the_driver(head: Cluster, tmp_path: Path) -> None:
    """A folder of the working directory must not take the place of the packages that were sent."""
    here = tmp_path / "here" / "results"
    here.mkdir(parents=True)
    (here / "__init__.py").write_text("raise SystemExit('code of the working directory was run')\n")
    token = tmp_path / "token"
    token.write_text(TOKEN)
    done = connect(head.address, tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
    assert done.returncode == 0, done.stderr
    assert "py_modules" in done.stdout, "sent along, not what is installed there"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"RAY_AUTH_MODE": "token"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/no/such/file"},
    ],
    ids=["no token mode", "no token", "wrong token", "no token file"],
)
def test_another_token_or_none_is_refused_in_one_line(head: Cluster, tmp_path: Path, given: dict[str, str]) -> None:
    done = connect(head.address, tmp_path, **given)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"refused: --address {head.address}: the cluster wants its token")
    assert "Traceback" not in done.stderr


def test_a_job_of_ray_job_submit_connects_too(head: Cluster, tmp_path: Path) -> None:
    """The job server hands its entrypoint the job's runtime environment, which Ray merges with the driver's."""
    job = '{"runtime_env": {"env_vars": {"A": "b"}}, "metadata": {}}'
    done = connect(
        "auto",
        tmp_path,
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=TOKEN,
        RAY_ADDRESS=head.address,
        RAY_JOB_CONFIG_JSON_ENV_VAR=job,
    )
    assert done.returncode == 0, done.stderr


def test_where_nothing_answers_it_is_told_at_once() -> None:
    with pytest.raises(UserError, match="nothing answers there"):
        _refuse_unreachable(f"127.0.0.1:{free_port()}")


def test_addresses_of_another_kind_are_refused() -> None:
    for address in ("ray://head:10001", "http://head:8265", "local"):  # "local" would listen on all interfaces
        with pytest.raises(UserError, match="expected auto, or HOST:PORT"):
            _refuse_unreachable(address)


def test_a_file_that_is_added_while_a_folder_is_removed_goes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, removed = tmp_path / "ray", os.rmdir
    (folder / "logs").mkdir(parents=True)
    late = [folder / "late"]

    def rmdir(path: str, **where: int) -> None:
        if late and Path(path).name == folder.name:
            late.pop().touch()
        removed(path, **where)

    monkeypatch.setattr(os, "rmdir", rmdir)
    _remove(folder)
    assert not late and not folder.exists()
