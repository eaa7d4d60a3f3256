"""Run folders without images and checkpoints, and what `front --exact` makes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search_spaces.spec import StudySpec, parse_space
from study.cli.main import main
from study.run import network_work
from study.run.folder import claim_folder
from study.search.traced_network import TracedNetwork
from study.traces.files import trace_folder, write_trace
from study.traces.trace import SplitLogits
from support.exact_spaces import ALL_KINDS, traced, with_work

TEXT = f"{ALL_KINDS}, statistic: [mean_logit, mean_max], quantization: [fp32, int8]"


def int8(one: TracedNetwork) -> TracedNetwork:
    validation = one.validation
    return replace(one, validation=SplitLogits(validation.logits, validation.labels, "simulated"))


ONE = [traced("one", 4, 0)]
FOUR = [
    traced("one", 4, 0),
    int8(traced("one", 4, 7, "int8")),
    traced("two", 3, 10),
    int8(traced("two", 3, 17, "int8")),
]


def study(text: str = TEXT) -> StudySpec:
    return parse_space(f"name: tiny\noperating_points: {{{text}}}", "test")


def write_split(folder: Path, one: TracedNetwork, name: str) -> Path:
    split, execution = getattr(one, name, one.validation), one.validation.int8_execution
    path = trace_folder(folder / "traces", one.weights, one.precision, execution, name, "d1gest")
    of = {"weights": one.weights, "precision": one.precision, "int8_execution": execution, "split": name}
    write_trace(path, split, of | {"images_digest": "d1gest"})
    return path


def profile_of(folder: Path, one: TracedNetwork, batch_size: int = 1) -> Path:
    return folder / "profiles" / f"{one.weights.file_stem}-{one.precision}-batch{batch_size}.json"


def run_folder(folder: Path, networks: Sequence[TracedNetwork] = FOUR, text: str = TEXT) -> Path:
    """What a study writes before its search, without images and checkpoints."""
    claim_folder(study(text).plain(), folder, {"digits": "d1gest"})
    for one in networks:
        for name in ("calibration", "validation", "test"):
            write_split(folder, one, name)
        path = profile_of(folder, one)
        path.parent.mkdir(exist_ok=True)
        path.write_text(one.costs.to_json())
    return folder


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names_of(networks: Sequence[TracedNetwork]) -> set[tuple[str, str]]:
    return {(one.trial_id, one.precision) for one in networks}


def exact_json(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """What `front --exact --json` prints of a run folder."""
    capsys.readouterr()
    assert main(["front", str(folder), "--exact", "--json", *options]) == 0

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    return json.loads(capsys.readouterr().out, parse_constant=refuse)


def refused(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The line on stderr of a command that ends with exit code 2."""
    capsys.readouterr()
    try:
        code = main(command.split())
    except SystemExit as exit:
        code = exit.code
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("warning: ")]
    assert code == 2 and len(lines) == 1 and captured.out == "", captured
    return lines[0]


def know_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the reader find the work of networks that have no checkpoints."""
    works = {one.trial_id: with_work(one).work for one in FOUR}
    monkeypatch.setattr(network_work, "stored_work", lambda folder, data, trial_id, classes: works[trial_id])
