"""`profile`: costs that were measured, and `evaluate` with them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from support.cli import result_of

from study.cli.main import main
from study.costs.measure import profile as measure


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure for an instant: no test looks at how long a part took."""
    short = partial(measure.MeasureSettings, warm_up_seconds=0.01, timing_window_seconds=0.001)
    monkeypatch.setattr(measure, "MeasureSettings", short)


def test_profile_and_evaluate_with_it(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Measured on this machine; the profile of another network, precision or device is refused."""
    options = f"--device cpu --repeats 1 --no-meter --output {tmp_path / 'profiles'}"
    command = f"profile --pretrained {models / 'exits'} --quantization fp32 int8 --batch-size 1 2 {options}"
    result = result_of(command, capsys)
    assert [(row["precision"], row["batch_size"]) for row in result["profiles"]] == [
        ("fp32", 1),
        ("fp32", 2),
        ("int8", 1),
        ("int8", 2),
    ]
    assert all(row["ms"] > 0 and row["mJ"] > 0 for row in result["profiles"])
    assert {row["energy_source"] for row in result["profiles"]} == {"modelled:horowitz-2014-45nm"}
    (file,) = (tmp_path / "profiles").glob("vgg11-x0.125-linear-*-fp32-batch1.json")
    evaluate = f"evaluate --pretrained {models / 'exits'} --beta 1.5 --device cpu --costs {file}"
    measured = result_of(evaluate, capsys)
    assert measured["latency_source"] == "measured" and measured["costs_batch_size"] == 1

    def refused(command: str) -> str:
        capsys.readouterr()
        assert main(command.split()) == 2
        return capsys.readouterr().err

    assert "not at int8" in refused(f"{evaluate} --quantization int8")
    foreign = json.loads(file.read_text())
    foreign["costs"]["device"] = "Another Machine 3000"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(foreign))
    elsewhere = evaluate.replace(str(file), str(other))
    assert "Another Machine 3000" in refused(elsewhere)
    assert result_of(f"{elsewhere} --other-device", capsys)["costs_device"] == "Another Machine 3000"
    other.write_text("{}")
    assert "other.json" in refused(elsewhere)


def test_an_untrained_network_can_be_profiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = f"--device cpu --repeats 1 --no-meter --output {tmp_path}"
    result = result_of(f"profile --backbone resnet18 --width 0.125 --classes 100 --image-size 32 {options}", capsys)
    assert len(result["profiles"]) == 1 and result["profiles"][0]["ms"] > 0
