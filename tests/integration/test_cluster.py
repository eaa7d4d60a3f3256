"""Studies on a cluster of several nodes: trials spread, a node dies, GPUs are shared, unfit clusters are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import psutil
import pytest
from support.commands import checkpointed, started
from support.faults import ROOT, STUDY, different_tables
from support.ray_nodes import CREDENTIALS, Cluster

from results.parts import part_count, read_table
from study.checkpoints.description import read_description

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs many loopback addresses and /proc")


def test_trials_spread_over_the_nodes_and_outlive_one_of_them(
    head: Cluster, lived: dict[str, pd.DataFrame], study_file: Path, tmp_path: Path
) -> None:
    run_folder = tmp_path / "runs" / "small"
    frozen: dict[str, tuple[str, psutil.Process]] = {}

    def both_nodes_are_at_work() -> bool:
        for node in (head.head, doomed):
            for trial, worker in node.workers_on(run_folder).items():
                if trial in checkpointed(run_folder):
                    worker.suspend()  # it could train all trials before the other node's worker has started
                    frozen[node.host] = trial, worker
        return len(frozen) == 2

    run = ("run", study_file, "--storage", "runs", "--address", head.address, "--no-report")
    with head.node("--num-cpus=1") as doomed, started(tmp_path, *run, **CREDENTIALS) as command:
        command.wait_until(both_nodes_are_at_work)
        orphan, _ = frozen[doomed.host]
        doomed.kill()
        frozen[head.head.host][1].resume()
        left = read_description(run_folder / "checkpoints" / orphan / "last")
        rung = STUDY["backbones"]["scheduler"]["first_rung"]
        assert left and len(left.history) < rung, "its trial waited for the others: nothing was tested"
        assert not part_count(run_folder / "tables", "trials")
        assert command.wait() == 0, command.err
    assert set(read_table(run_folder / "tables", "trials")["status"]) == {"finished", "stopped_by_halving"}
    assert different_tables(lived, run_folder) == {}


@pytest.mark.slow
@pytest.mark.parametrize(("gpus", "together"), [(0.5, 2), (1, 1)])
def test_as_many_trials_share_a_gpu_as_was_asked_for(head: Cluster, tmp_path: Path, gpus: float, together: int) -> None:
    script, records = Path(__file__).with_name("gpu_sharing.py"), tmp_path / "records"
    done = subprocess.run(
        [sys.executable, script, head.address, records, str(gpus), str(together)],
        env={**os.environ, **CREDENTIALS, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    trials = [json.loads(path.read_text()) for path in records.glob("*.json")]
    assert len(trials) == 4
    for trial in trials:
        assert trial["gpus"] in ([0], ["0"]) and trial["share"] == gpus
    beside = [sum(one["started"] <= two["started"] < one["ended"] for one in trials) for two in trials]
    assert max(beside) == together


@pytest.mark.slow
def test_a_node_that_does_not_see_the_run_folder_is_refused_and_nothing_is_left(
    head: Cluster, study_file: Path, tmp_path: Path
) -> None:
    storage = tmp_path / "runs"
    storage.mkdir()
    # A mount of its own in the folder's place, as where a network folder was not mounted.
    elsewhere = [*new_mounts(), "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', storage]
    run = ("run", study_file, "--storage", storage, "--address", head.address)
    with (
        head.node("--num-cpus=0", before=elsewhere) as blind,
        started(tmp_path, *run, **CREDENTIALS) as command,
    ):
        assert command.wait() == 2
    (line,) = command.err.splitlines()
    assert line.startswith(f"predictive-exit: {storage / 'small'}: node {blind.host} of the cluster does not see this")
    assert list(storage.iterdir()) == []


def new_mounts() -> list[str]:
    """A command under which another one may mount what this machine does not see."""
    for command in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        try:
            if subprocess.run([*command, "true"], stderr=subprocess.DEVNULL).returncode == 0:
                return command
        except FileNotFoundError:
            break
    pytest.skip("no mounts of its own for a process here (unshare)")


@pytest.mark.slow
def test_a_cluster_too_small_for_a_trial_is_refused(head: Cluster, study_file: Path, tmp_path: Path) -> None:
    """And for nothing else: Ray takes a node that died a moment ago for one of the cluster."""
    run = ("run", study_file, "--storage", tmp_path / "runs", "--address", head.address)
    with head.node("--num-cpus=0"):
        pass
    with started(tmp_path, *run, "--set", "resources.cpus_per_trial=2", **CREDENTIALS) as command:
        assert command.wait() == 2
    (line,) = command.err.splitlines()
    assert "a trial asks for 2 CPUs and 0 GPUs, but the largest node has 1 and 1" in line
