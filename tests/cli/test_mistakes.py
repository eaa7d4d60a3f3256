"""Mistakes are told in one line with exit code 2; faults of the program keep their traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.cli import TRAIN

from study.cli.main import main


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
        ("train --learning-rate nan", "--learning-rate: must be a number above 0"),
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


def test_a_lack_of_memory_is_told_in_one_line(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def asks_for_too_much(*args: object, **kwargs: object) -> None:
        torch.empty(2**50)

    monkeypatch.setattr("study.run.one_network.train_one", asks_for_too_much)
    assert main([*TRAIN.split(), "--mode", "original", "--output", str(models / "huge")]) == 2
    told = capsys.readouterr().err.strip()
    assert "not enough memory" in told and len(told.splitlines()) == 1


def test_a_fault_of_the_program_is_not_taken_for_a_mistake(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("study.run.one_network.train_one", breaks)
    with pytest.raises(RuntimeError, match="a bug"):
        main([*TRAIN.split(), "--mode", "original", "--output", str(models / "broken")])
