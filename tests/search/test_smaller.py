"""Networks of the same run that are smaller than a reference network, and when an early exit loses to one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from support.run_folders import ONE, run_folder

from results.parts import write_part
from search_spaces.spec import OperatingPointsSpec
from study import Costs
from study.networks.settings import NetworkSettings
from study.run import backbones
from study.run.backbones import stored_backbones, write_backbone_costs
from study.run.reader import stored_study
from study.search.smaller import Backbone, beaten_by, smaller_rows, smaller_sentence


def backbone(trial_id: str, accuracy: float, flops: float) -> Backbone:
    return Backbone(trial_id, f"vgg19 x {flops:g}", accuracy, Costs(segment_flops=[flops], head_flops=[]))


def test_only_networks_that_cost_less_are_smaller_and_the_cheapest_is_first() -> None:
    others = [backbone("b", 0.7, 40.0), backbone("c", 0.9, 100.0), backbone("a", 0.6, 10.0), backbone("d", 0.95, 200.0)]
    rows = smaller_rows("big", 0.8, {"flops": 100.0, "energy": 1.0}, others)
    assert rows["smaller_id"].tolist() == ["a", "b"] and (rows["family"] == "classic").all()
    np.testing.assert_allclose(rows["flops_share"], [0.1, 0.4])
    np.testing.assert_allclose(rows["accuracy_drop"], [0.2, 0.1])
    assert rows["energy_share"].isna().all(), "the energy of these networks is not known"


def test_an_early_exit_loses_to_a_network_that_costs_less_at_no_lower_accuracy() -> None:
    rows = smaller_rows("big", 0.8, {"flops": 100.0}, [backbone("a", 0.6, 10.0), backbone("b", 0.7, 40.0)])
    assert beaten_by(0.71, 0.5, rows) is None and beaten_by(0.6, 0.05, rows) is None
    rival = beaten_by(0.6, 0.5, rows)
    assert rival is not None and rival["smaller_id"] == "b"
    told = smaller_sentence("one fp32", 0.5, 0.6, rival)
    assert "loses to a smaller network: vgg19 x 40 (b) as it stands needs 40.0% instead of 50.0% of the FLOPs" in told
    by_energy = smaller_sentence("one fp32", 0.5, 0.6, {**rival, "energy_share": 0.3}, "energy")
    assert "needs 30.0% instead of 50.0% of the energy" in by_energy


def test_the_backbones_of_a_run_are_counted_by_their_settings(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", ONE)
    points = stored_study(folder).operating_points
    assert stored_backbones(folder, points) == []

    def trial(name: str, width: float, accuracy: float | None) -> dict[str, object]:
        network = asdict(NetworkSettings(backbone="vgg19", width=width))
        row = {"trial_id": name, "phase": "backbones", "data": "digits", "backbone": "vgg19", "width": width}
        ended = {"status": "stopped_by_halving", "epochs_done": 4} if name == "narrow-2" else {"status": "finished"}
        return {**row, **ended, "settings": json.dumps({"network": network}), "classifier_accuracy": accuracy}

    exits = {"trial_id": "one", "phase": "exits", "data": "digits", "backbone": "vgg19", "width": 0.25}
    rows = [trial("wide", 0.25, 0.8), trial("narrow", 0.125, 0.6), trial("narrow-2", 0.125, 0.7), exits]
    write_part(folder / "tables", "trials", [*rows, trial("failed", 0.5, None)])
    found = {one.trial_id: one for one in stored_backbones(folder, points)}
    stopped = "vgg19 x 0.125, stopped after 4 epochs"
    assert {name: one.name for name, one in found.items()} == {"wide": "vgg19 x 0.25", "narrow-2": stopped}
    assert 3 < found["wide"].costs.classic("flops") / found["narrow-2"].costs.classic("flops") < 4
    assert found["wide"].costs.holds("energy")


def test_costs_that_the_run_wrote_are_read_instead_of_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_folder(tmp_path / "run", ONE)
    rows = []
    for name, width in {"wide": 0.25, "narrow": 0.125}.items():
        settings = json.dumps({"network": asdict(NetworkSettings(backbone="vgg19", width=width))})
        row = {"trial_id": name, "phase": "backbones", "data": "digits", "backbone": "vgg19", "width": width}
        rows.append(row | {"status": "finished", "settings": settings, "classifier_accuracy": 0.5})
    exits = {"trial_id": "one", "phase": "exits", "data": "digits", "backbone": "vgg19", "width": 0.25}
    write_part(folder / "tables", "trials", [*rows, exits])
    study = stored_study(folder)
    points = study.operating_points

    def costs(points: OperatingPointsSpec) -> list[str]:
        return [one.costs.to_json() for one in stored_backbones(folder, points)]

    counted = costs(points)
    write_backbone_costs(folder, study.data, points, "digits", ONE[0].validation.logits.shape[2])
    file = folder / "profiles" / "wide-without-exits-batch1.json"
    with monkeypatch.context() as patched:
        patched.setattr(backbones, "_counted", None)
        assert costs(points) == counted
    file.write_bytes(b"{")
    assert costs(points) == counted, "a damaged file is counted anew"
    other = points.model_copy(update={"costs": "jetson-tx2"})
    assert set(costs(other)).isdisjoint(counted), "the files are of the costs of the study"
