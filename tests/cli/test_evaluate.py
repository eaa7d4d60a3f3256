"""`evaluate`: policies, the accuracy forward, int8, costs and frequency rules on one trained network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.cli import result_of

from study.cli.main import build_parser, main
from study.data.loading import load_test_set
from study.data.settings import DataSettings, ImageSet


def test_evaluate_with_and_without_exits(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = result_of(f"evaluate --pretrained {models / 'exits'} --evaluate-mode normal --device cpu", capsys)
    assert whole["flops_share_of_classic"] == 1 and whole["mean_exit"] == 13 and whole["split"] == "validation"
    command = f"evaluate --pretrained {models / 'exits'} --beta 1.5 --start-layer 2 --device cpu"
    early = result_of(f"{command} --stat-each-layer", capsys)
    assert early["mean_exit"] < 13 and early["samples"] == whole["samples"]
    layers = early["layers"]
    assert [row["exit"] for row in layers] == list(range(1, 14))
    assert sum(row["share_stopped"] for row in layers) == pytest.approx(1)
    assert layers[0]["share_stopped"] == 0, "start layer 2"
    one_by_one = result_of(f"{command} --batch-size 1", capsys)
    assert one_by_one["accuracy"] == early["accuracy"] and one_by_one["mean_exit"] == early["mean_exit"]


def test_test_images_are_opened_only_when_asked(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []

    def open_test_set(settings: DataSettings, *arguments: object, **options: object) -> ImageSet:
        opened.append(settings)
        return load_test_set(settings, models)

    monkeypatch.setattr("study.run.one_network.load_test_set", open_test_set)
    command = f"evaluate --pretrained {models / 'exits'} --beta 1.5 --device cpu"
    assert result_of(command, capsys)["split"] == "validation"
    assert result_of(f"{command} --forward-mode accuracy", capsys)["split"] == "validation"
    assert not opened
    assert result_of(f"{command} --split test", capsys)["split"] == "test"
    assert len(opened) == 1


def test_the_backbone_kept_its_accuracy(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = [
        result_of(f"evaluate --pretrained {models / name} --evaluate-mode normal --device cpu", capsys)["accuracy"]
        for name in ("original", "exits")
    ]
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    "policy", ["--policy hierarchical --beta 2", "--policy placed --beta 2 --exits 3 7", "--policy static --exits 5"]
)
def test_every_policy_runs(models: Path, policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = result_of(f"evaluate --pretrained {models / 'exits'} {policy} --split validation", capsys)
    assert result["split"] == "validation" and 0 <= result["accuracy"] <= 1


def test_accuracy_forward(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"evaluate --pretrained {models / 'exits'} --forward-mode accuracy --statistic mean_max --beta 1.2"
    result = result_of(command, capsys)
    assert result["predictions"] > 0 and 0 <= result["prediction_accuracy"] <= 1


@pytest.mark.parametrize("options", ["--beta 1.2", "--beta 1.1 --start-layer 4 --max-jump 3", "--beta 2 --max-jump 1"])
def test_accuracy_forward_has_the_confusion_of_predicted_and_true_distance(
    models: Path, options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It sums to the predictions, its diagonal to the accuracy, at any start layer that is looked at."""
    command = f"evaluate --pretrained {models / 'exits'} --forward-mode accuracy --statistic mean_max {options}"
    result = result_of(command, capsys)
    parsed = build_parser().parse_args(command.split())
    names = [*map(str, range(1, parsed.max_jump)), f"{parsed.max_jump}+"]
    assert [row["predicted"] for row in result["confusion"]] == names
    assert all(list(row) == ["predicted", *(f"true {name}" for name in names)] for row in result["confusion"])
    counts = [[row[f"true {name}"] for name in names] for row in result["confusion"]]
    predictions = sum(map(sum, counts))
    right = sum(counts[place][place] for place in range(len(names)))
    assert 0 < predictions == result["predictions"] <= result["samples"]
    assert result["prediction_accuracy"] == pytest.approx(right / predictions)
    rows = result["by_start_layer"]
    assert [row["start_layer"] for row in rows] == list(range(1, 12)) and {row["beta"] for row in rows} == {
        *parsed.beta
    }
    (own,) = [row for row in rows if row["start_layer"] == parsed.start_layer]
    assert (own["predictions"], own["accuracy"]) == (predictions, pytest.approx(right / predictions))
    short = sum(counts[row][column] for row in range(len(names)) for column in range(row + 1, len(names)))
    assert own["too_short"] == pytest.approx(short / predictions)
    assert own["accuracy"] + own["too_short"] + own["too_long"] == pytest.approx(1)
    assert main(command.split()) == 0
    assert "confusion:" in capsys.readouterr().out


def test_accuracy_forward_of_several_betas_is_that_of_each(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"evaluate --pretrained {models / 'exits'} --forward-mode accuracy --statistic mean_max --beta"
    together = result_of(f"{command} 1.1 1.4 2", capsys)
    assert "confusion" not in together and "prediction_accuracy" not in together
    alone = [row for beta in (1.1, 1.4, 2) for row in result_of(f"{command} {beta}", capsys)["by_start_layer"]]
    assert together["by_start_layer"] == alone and len({row["predictions"] for row in alone}) > 3


def test_where_every_image_stops_there_is_no_prediction(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"evaluate --pretrained {models / 'exits'} --forward-mode accuracy --beta 1e-9 --json"
    assert main(command.split()) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["predictions"] == 0 and result["prediction_accuracy"] is None
    assert {row["accuracy"] for row in result["by_start_layer"]} == {None}
    assert "raise --beta" in captured.err and captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "betas"),
    [
        ("--policy hierarchical --criterion margin", 1),
        ("--policy hierarchical --criterion patience --start-layer 2", 1),
        ("--policy placed --criterion entropy --exits 2 5 9", 1),
        ("--policy predictive --statistic mean_max", 12),
        ("--policy hierarchical --criterion max_softmax", 12),
    ],
)
def test_criteria_and_betas_of_each_exit_run_live_as_they_replay(
    models: Path, options: str, betas: int, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"evaluate --pretrained {models / 'exits'} --device cpu --stat-each-layer {options} --beta"
    mean_exits = []
    for beta in (4, 1, 0.3, 0.11, 0.01):  # which of them tell images apart depends on the network
        several = " ".join(f"{beta * (1 + exit / 100)}" for exit in range(betas))
        result = result_of(f"{command} {several}", capsys)
        assert result["replay_agreement"] == 1
        mean_exits.append(result["mean_exit"])
    assert mean_exits == sorted(mean_exits, reverse=True) or "predictive" in options
    assert len(set(mean_exits)) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--beta 1 2 3", "there are 3 betas, but this network has 12 exits"),
        ("--policy hierarchical --criterion margin --beta 0.5 0.6", "there are 2 betas"),
        ("--policy placed --exits 2 4 --beta 0.5 0.6", "there are 2 betas"),
        ("--policy placed --exits 2 14 --beta 0.5", "last exit is 14"),
        ("--forward-mode accuracy --beta 1.5 -2", "beta is -2"),
        ("--forward-mode accuracy --start-layer 13", "start_layer is 13"),
        ("--forward-mode accuracy --max-jump 0", "max_jump is 0"),
    ],
)
def test_what_does_not_fit_the_network_is_refused_before_it_runs(
    models: Path,
    options: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("evaluate.trace_images", "evaluate.run_policy"):
        monkeypatch.setattr(f"study.run.{name}", lambda *_, **__: pytest.fail("the network ran"))
    assert main(f"evaluate --pretrained {models / 'exits'} {options}".split()) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_int8_from_the_command_line(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"evaluate --pretrained {models / 'exits'} --beta 1.5 --start-layer 2 --device cpu --stat-each-layer"
    full, small = (result_of(f"{command} --quantization {name}", capsys) for name in ("fp32", "int8"))
    assert (full["precision"], full["int8_execution"], small["precision"]) == ("fp32", None, "int8")
    assert small["int8_execution"] in ("x86_kernels", "x86_kernels_7_bit", "simulated")
    for one, other in zip(full["layers"], small["layers"], strict=True):
        assert one["accuracy_all"] == pytest.approx(other["accuracy_all"], abs=0.05)
        assert one["threshold"] != other["threshold"] or one["exit"] == 13, "thresholds are those of the int8 logits"
    assert full["replay_agreement"] == 1 and small["replay_agreement"] > 0.9
    classic = [result["energy_joules"] / result["energy_share_of_classic"] for result in (full, small)]
    assert 0 < classic[1] < classic[0]
    assert small["flops"] == pytest.approx(full["flops"], rel=0.1), "operations are operations"


def test_costs_of_a_device_from_the_command_line(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"evaluate --pretrained {models / 'exits'} --beta 1.5 --device cpu --costs jetson-tx2"
    result = result_of(command, capsys)
    assert result["energy_source"] == result["latency_source"] == "modelled:jetson-tx2"
    assert result["latency_mean_seconds"] > 0 and 0 < result["seconds_share_of_classic"] < 1.5
    assert main([*command.split(), "--quantization", "int8"]) == 2
    assert "jetson-tx2 has no int8" in capsys.readouterr().err


def test_frequency_rules_from_the_command_line(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"evaluate --pretrained {models / 'exits'} --beta 1.5 --device cpu --costs jetson-tx2"
    plain = result_of(command, capsys)
    racing, deadline = (result_of(f"{command} --dvfs {rule}", capsys) for rule in ("race_to_idle", "deadline"))
    assert racing["latency_mean_seconds"] == pytest.approx(plain["latency_mean_seconds"])
    assert racing["energy_joules"] > plain["energy_joules"], "it pays for idling until the deadline"
    assert deadline["dvfs_slack"] == deadline["dvfs_smallest_slack"] > 0
    assert deadline["latency_mean_seconds"] >= racing["latency_mean_seconds"]
    for options, message in (
        ("--dvfs deadline --dvfs-slack 0", "needs at least"),
        ("--dvfs paper --costs horowitz-2014-45nm", "has no frequency levels"),
    ):
        assert main([*command.split(), *options.split()]) == 2
        assert message in capsys.readouterr().err


def test_figures_of_the_exits_and_of_the_confusion(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"evaluate --pretrained {models / 'exits'} --statistic mean_max --beta 1.2 --device cpu"
    result_of(f"{command} --stat-each-layer --figure {tmp_path / 'exits.svg'}", capsys)
    said = (tmp_path / "exits.svg").read_text("utf-8")
    assert "vgg11, predictive, beta 1.2" in said and "last_exit, fp32" in said and "validation images" in said
    confusion = result_of(f"{command} --forward-mode accuracy --figure {tmp_path / 'confusion.svg'}", capsys)
    assert f"of {confusion['predictions']} predictions" in (tmp_path / "confusion.svg").read_text("utf-8")
    for wrong, message in (
        ("--figure x.svg", "--figure draws what --stat-each-layer"),
        ("--forward-mode accuracy --beta 1 2 --figure x.svg", "at one --beta"),
        ("--stat-each-layer --figure x.bmp", "must end in"),
    ):
        assert main([*command.split(), *wrong.split()]) == 2
        assert message in capsys.readouterr().err
    assert not list(Path.cwd().glob("x.*"))
