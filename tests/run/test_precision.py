"""The precision ``auto``: resolved once for a study, recorded, and part of the names of trials."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import yaml
from support.studies import run_context, tiny_study

from results.parts import read_table
from search_spaces.spec import StudySpec
from study.checkpoints.description import read_description
from study.cli.main import main
from study.costs.measure.meters import device_name
from study.errors import UserError
from study.execution import local
from study.execution.trial_plan import TrialPlan
from study.networks.settings import NetworkSettings
from study.progress import Reporter
from study.run import one_network
from study.run.plan import resolve_precision
from study.run.run import run_study
from study.run.trials import draw_trials
from study.training.loop import autocast, fast_precision
from study.training.settings import TrainingSettings


class Machine:
    """An executor of which only the precision is asked."""

    def __init__(self, precision: str) -> None:
        self.precision = precision

    def fast_precision(self) -> str:
        return self.precision


class Lines(Reporter):
    """Keeps the lines that are told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def asked(**sections: dict[str, object]) -> StudySpec:
    return tiny_study(**{"backbones": {"precision": "auto"}, "exits": {"precision": "auto"}, **sections})


def precisions(spec: StudySpec) -> list[str]:
    return [spec.backbones.model_dump()["precision"], spec.exits.model_dump()["precision"]]


def resolved(spec: StudySpec, here: str, recorded: dict[str, str], told: Lines) -> StudySpec:
    spec, lines = resolve_precision(spec, recorded, Machine(here))  # type: ignore[arg-type]
    for line in lines:
        told.line(line)
    return spec


def test_the_first_start_decides_and_later_starts_keep_to_it():
    told = Lines()
    first = resolved(asked(), "bf16", {}, told)
    assert precisions(first) == ["bf16", "bf16"] and told.lines == []
    recorded = {"backbones": "bf16", "exits": "bf16"}
    later = resolved(asked(), "fp32", recorded, told)
    assert later == first
    assert [line.partition(":")[0] for line in told.lines] == ["backbones", "exits"]
    assert all("stays bf16, as recorded; fp32 would be fast here" in line for line in told.lines)
    mixed = resolved(asked(exits={"precision": "fp32"}), "bf16", {}, told)
    assert precisions(mixed) == ["bf16", "fp32"]


def test_the_names_of_trials_tell_the_precision():
    with pytest.raises(ValueError, match="auto must be resolved before a trial is named"):
        _ = draw_trials(asked()).backbones_on("d1")[0].trial_id
    names = {
        here: {plan.trial_id for plan in draw_trials(resolved(asked(), here, {}, Lines())).backbones_on("d1")}
        for here in ("fp32", "bf16")
    }
    assert len(names["fp32"]) == 3 and not names["fp32"] & names["bf16"]
    with pytest.raises(ValueError, match="auto must be resolved"):
        autocast(torch.device("cpu"), "auto")


def test_a_study_that_moves_to_another_kind_of_machine_stays_one_study(tmp_path, monkeypatch):
    """The second machine would take bf16. The trials of the first one are found again, and nothing is mixed."""
    space, where = asked(), run_context(tmp_path / "run")
    monkeypatch.setattr(local, "fast_precision", lambda device: "fp32")
    run_study(space, where)
    stored = yaml.safe_load((tmp_path / "run" / "study.yaml").read_text())
    assert stored["study"]["backbones"]["precision"] == stored["study"]["exits"]["precision"] == "fp32"
    trials = read_table(tmp_path / "run" / "tables", "trials")
    assert set(trials["device"]) == {device_name(torch.device("cpu"))} and set(trials["threads"]) == {1}
    told = Lines()
    monkeypatch.setattr(local, "fast_precision", lambda device: "bf16")
    run_study(space, dataclasses.replace(where, reporter=told))
    assert len([line for line in told.lines if "stays fp32" in line]) == 2
    again = read_table(tmp_path / "run" / "tables", "trials")
    assert list(again["trial_id"]) == list(trials["trial_id"]) and list(again["seconds"]) == list(trials["seconds"])
    with pytest.raises(UserError, match=r"backbones\.precision is 'fp32' there and 'bf16' here"):
        run_study(asked(backbones={"precision": "bf16"}), where)


def test_a_single_training_keeps_the_precision_of_its_first_start(tmp_path, monkeypatch):
    arguments = ["train", "--backbone", "vgg11", "--width", "0.0625", "--limit", "120", "--batch-size", "32"]
    arguments += ["--device", "cpu", "--schedule", "constant", "--output", str(tmp_path / "model")]
    for epochs, here in (("1", "fp32"), ("2", "bf16")):
        monkeypatch.setattr(one_network, "fast_precision", lambda device, here=here: here)
        assert main([*arguments, "--epochs", epochs]) == 0
    found = read_description(tmp_path / "model" / "last")
    assert found is not None and found.training.precision == "fp32" and len(found.history) == 2
    assert [machine["device"] for _, machine in found.made_by] == [device_name(torch.device("cpu"))]


@pytest.mark.parametrize(
    ("instructions", "precision"),
    [({}, "fp32"), ({"avx512_vnni": True, "amx_bf16": False}, "fp32")]
    + [({name: True}, "bf16") for name in ("amx_bf16", "avx512_bf16")],
)
def test_auto_is_bf16_on_processors_with_instructions_for_it(
    instructions: dict[str, bool], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert fast_precision(torch.device("cpu")) == precision


def test_the_precision_is_part_of_the_name_of_a_trial():
    plan: dict[str, Any] = {"phase": "train", "network": NetworkSettings(), "data_digest": "d"}
    one, other = (
        TrialPlan(**plan, training=TrainingSettings(mode="normal", precision=precision)).trial_id
        for precision in ("fp32", "bf16")
    )
    assert one != other
