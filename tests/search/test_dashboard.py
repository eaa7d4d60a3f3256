"""The journal of a search in the real optuna-dashboard: what its Pareto plot is drawn from."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.searches import ONE, run

from results.parts import rows_of
from search_spaces.spec import parse_space

TEXT = """
name: tiny
operating_points:
  trials: 24
  batch: 12
  sampler: random
  policy: [predictive, static]
  objectives: [accuracy, flops, energy]
  constraints: {accuracy_drop: 0.05, energy: 2.7}
"""
COMMAND = Path(sys.executable).with_name("optuna-dashboard")


@contextmanager
def dashboard(journal: Path) -> Iterator[str]:
    """The address of a dashboard that has opened a journal."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--storage-class", "JournalFileStorage", "--host", "127.0.0.1", "--port", str(port), "--quiet"]
    with subprocess.Popen([COMMAND, *options, journal], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        try:
            for _ in range(300):
                if server.poll() is not None:
                    pytest.fail(f"the dashboard ended: {server.stderr.read() if server.stderr else b''!r}")
                try:
                    answer(f"http://127.0.0.1:{port}/api/studies")
                    break
                except OSError:
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def answer(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=30) as response:
        return json.load(response)


@pytest.mark.skipif(not COMMAND.exists(), reason="optuna-dashboard is not installed")
def test_the_dashboard_knows_names_directions_constraints_and_what_a_trial_is(tmp_path: Path) -> None:
    table = run(parse_space(TEXT, "test").operating_points, ONE, tmp_path / "tables")
    assert {True, False} == set(table["feasible"])
    (journal,) = (tmp_path / "optuna").iterdir()
    with dashboard(journal) as address:
        (summary,) = answer(f"{address}/api/studies")["study_summaries"]
        assert summary["study_name"] == journal.stem
        study = answer(f"{address}/api/studies/{summary['study_id']}?after=0")
    assert study["directions"] == ["maximize", "minimize", "minimize"]
    assert study["objective_names"] == ["accuracy", "flops", "energy"]
    assert {"key": "energy_source", "value": "modelled:test"} in study["user_attrs"]
    assert len(study["trials"]) == len(table)
    for trial, row in zip(study["trials"], rows_of(table), strict=True):
        assert trial["values"] == [row["accuracy"], row["flops"], row["energy_joules"]]
        assert trial["constraints"] == list(json.loads(row["constraints"]).values()) and len(trial["constraints"]) == 2
        assert all(value <= 0 for value in trial["constraints"]) == row["feasible"]
        told = {one["key"]: one["value"] for one in trial["user_attrs"]}
        assert told["policy"] == row["policy"] and told["trial_id"] == "one" and told["setting"]
        assert told["feasible"] == str(row["feasible"])
    sortable = {one["key"] for one in study["union_user_attrs"] if one["sortable"]}
    assert {"accuracy", "flops", "energy_joules"} <= sortable
