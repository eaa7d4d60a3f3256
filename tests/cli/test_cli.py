"""The command line as a person uses it: one network, without Ray; mistakes in one line."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from study.cli.main import build_parser, main

TRAIN = "train --backbone vgg11 --width 0.125 --data digits --limit 240 --batch-size 32 --device cpu --precision fp32"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained backbone and its exit heads, made by the published program's first two commands in our form."""
    folder = tmp_path_factory.mktemp("models")
    assert main([*TRAIN.split(), "--mode", "original", "--epochs", "3", "--output", str(folder / "original")]) == 0
    exits = f"train --mode exits --head linear --epochs 2 --device cpu --pretrained {folder / 'original'}"
    assert main([*exits.split(), "--output", str(folder / "exits")]) == 0
    return folder


def result_of(command: str, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert main([*command.split(), "--json"]) == 0
    parsed = json.loads(capsys.readouterr().out)
    assert isinstance(parsed, dict)
    return parsed


def test_evaluate_with_and_without_exits(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = result_of(f"evaluate --pretrained {models / 'exits'} --evaluate-mode normal --device cpu", capsys)
    assert whole["flops_share_of_classic"] == 1 and whole["mean_exit"] == 13 and whole["split"] == "test"
    command = f"evaluate --pretrained {models / 'exits'} --beta 1.5 --start-layer 2 --device cpu"
    early = result_of(f"{command} --stat-each-layer", capsys)
    assert early["mean_exit"] < 13 and early["samples"] == whole["samples"]
    layers = early["layers"]
    assert [row["exit"] for row in layers] == list(range(1, 14))
    assert sum(row["share_stopped"] for row in layers) == pytest.approx(1)
    assert layers[0]["share_stopped"] == 0, "start layer 2"
    one_by_one = result_of(f"{command} --batch-size 1", capsys)
    assert one_by_one["accuracy"] == early["accuracy"] and one_by_one["mean_exit"] == early["mean_exit"]


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
    for beta in (4, 2, 1, 0.3, 0.15, 0.11, 0.03, 0.01, 0.003):  # which of them tell images apart depends on the network
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
    for name in ("trace_images", "run_policy"):
        monkeypatch.setattr(f"study.run.evaluate.{name}", lambda *_, **__: pytest.fail("the network ran"))
    assert main(f"evaluate --pretrained {models / 'exits'} {options}".split()) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_same_training_command_again_has_nothing_left(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (models / "original").rglob("*")}
    command = f"{TRAIN} --mode original --epochs 3 --output {models / 'original'}"
    assert result_of(command, capsys)["best_epoch"] <= 3
    assert before == {path: path.stat().st_mtime_ns for path in (models / "original").rglob("*")}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train --mode exits", "train: mode exits trains heads on a trained backbone: name one with --pretrained"),
        ("train --backbone vgg20", "unknown backbone 'vgg20'"),
        ("train --data cifar11", "unknown data set 'cifar11'"),
        ("train --data cifar10", "data set 'cifar10' is not complete: put data_batch_1"),
        ("train --width -1", "width"),
        ("train --width 0", "width"),
        ("train --output {models}/original/last/manifest.json/x", "is not a folder that you may write in"),
        ("run quickstart --storage {models}/original/last/manifest.json", "is not a folder that you may write in"),
        ("train --epochs 0", "argument --epochs"),
        ("train --learning-rate nan", "learning_rate is nan"),
        ("train --device tpu", "device 'tpu'"),
        ("train --data image_folder", "name the folder"),
        ("train --data image_folder --folder nowhere", "nowhere"),
        ("train --suffix ../../x", "cannot be a folder name"),
        (
            "{original} --optimizer sgd --mode original --epochs 3",
            "holds a run with other training: optimizer is 'adam'",
        ),
        ("evaluate", "name a trained network with --pretrained"),
        ("evaluate --pretrained nowhere", "nowhere does not exist"),
        ("evaluate --pretrained {models}/original", "exit heads are not trained"),
        ("evaluate --pretrained {models}/exits --beta 0", "beta is 0.0"),
        ("evaluate --pretrained {models}/exits --start-layer 13", "start_layer is 13"),
        ("evaluate --pretrained {models}/exits --policy static", "policy static needs --exits"),
        ("evaluate --pretrained {models}/exits --backbone resnet18", "backbone vgg11, not resnet18"),
        ("evaluate --pretrained {models}/exits --seed 4", "the splits would mix"),
        ("evaluate --pretrained {models}/exits --quantization int3", "argument --quantization"),
        ("front nowhere", "nowhere is no run folder"),
        ("status nowhere", "nowhere is no run folder"),
        ("run nosuchstudy", "no such study file"),
        ("run quickstart --set foo=1", "foo: unknown key"),
        ("run quickstart --set backbones", "expected KEY=VALUE"),
        ("run quickstart --name ../x", "cannot be a folder name"),
        ("run quickstart --pretrained nowhere.pt --set backbones.trials=1", "nowhere.pt does not exist"),
        ("run quickstart --set operating_points.start_layer=[1,99]", "names exit 99, but a network has 20"),
        (
            "evaluate --pretrained {models}/exits --criterion margin",
            "--criterion margin goes with --policy hierarchical",
        ),
        ("evaluate --pretrained {models}/exits --criterion entropy --policy static --exits 3", "goes with --policy"),
        ("evaluate --pretrained {models}/exits --criterion oracle", "argument --criterion"),
        ("evaluate --pretrained {models}/exits --beta", "argument --beta"),
        ("run quickstart --set operating_points.criterion=oracle", "criterion: 'oracle' is unknown"),
        (
            "run quickstart --set operating_points.criterion=hunch",
            "criterion: 'hunch' is unknown: use one of logit, max",
        ),
        (
            "run quickstart --set operating_points.search=exact --set operating_points.beta=per_exit",
            "operating_points.search: exact does not cover this space: beta: per_exit has one dimension for each exit",
        ),
        (
            "run placements --set operating_points.stop.hypervolume_ratio=0.9",
            "operating_points.stop: without an exact front there is no hypervolume_ratio (placements: auto has two",
        ),
        ("run quickstart --set operating_points.stop.plateau=0", "operating_points.stop.plateau: "),
        ("front nowhere --exact", "nowhere is no run folder"),
        ("front nowhere --set operating_points.policy=static", "--set belongs to --exact"),
        ("frobnicate", "invalid choice"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    models: Path,
    command: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    original = f"{TRAIN} --output {models / 'original'}"
    capsys.readouterr()
    try:
        code = main(command.format(models=models, original=original).split())
    except SystemExit as exit:  # argparse
        code = exit.code
    error = capsys.readouterr().err
    assert code == 2
    assert message in error and error.count("\n") == 1, error
    assert list(tmp_path.iterdir()) == [], "nothing was written"


def documented_commands() -> list[str]:
    """Every line of the README and the docs that starts with the command, continued lines joined."""
    root = Path(__file__).parents[2]
    found = []
    for page in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        text = page.read_text("utf-8").replace("\\\n", " ")
        found += [line.partition("#")[0].strip() for line in text.splitlines() if line.startswith("predictive-exit ")]
    return found


@pytest.mark.parametrize("command", documented_commands())
def test_documented_commands_parse(command: str) -> None:
    build_parser().parse_args(shlex.split(command)[1:])


def test_a_second_sigterm_is_quiet() -> None:
    program = (
        "import os, signal, time\n"
        "from study.cli.main import _end_on_sigterm\n"
        "_end_on_sigterm()\n"
        "try:\n    os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)\n"
        "except KeyboardInterrupt:\n    os.kill(os.getpid(), signal.SIGTERM); print('went on')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("went on\n", "")


def test_bare_sources_run_without_being_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", nothing)
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and "not installed" in capsys.readouterr().out


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


def test_a_lack_of_memory_is_told_in_one_line(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def asks_for_too_much(*args: object, **kwargs: object) -> None:
        torch.empty(2**50)

    monkeypatch.setattr("study.run.train_one.train_one", asks_for_too_much)
    assert main([*TRAIN.split(), "--mode", "original", "--output", str(models / "huge")]) == 2
    told = capsys.readouterr().err.strip()
    assert "not enough memory" in told and len(told.splitlines()) == 1


def test_a_fault_of_the_program_is_not_taken_for_a_mistake(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("study.run.train_one.train_one", breaks)
    with pytest.raises(RuntimeError, match="a bug"):
        main([*TRAIN.split(), "--mode", "original", "--output", str(models / "broken")])
