"""`predict` and `evaluate` of an exported model on image files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.cli import result_of
from support.faults import ROOT
from support.image_files import write_digits

from study import EarlyExit
from study.cli.main import main
from study.data.loading import load_test_set
from study.data.settings import DataSettings
from study.deploy.modules import graph_module
from study.deploy.torch_parts import Part

COUNT = 60


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    write_digits(tmp_path / "digits", COUNT)
    return tmp_path / "digits"


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*.png") if file.name[0] != ".")


def test_each_image_of_a_folder_gets_its_line(exported: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (digits / "notes.txt").write_text("no image")
    (digits / ".hidden.png").write_bytes(b"")
    assert main(["predict", str(exported), str(digits), "--batch-size", "16", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    model, files = EarlyExit.load(exported, device="cpu"), files_of(digits)
    expected = model.predict(files, batch_size=16)
    rows = [line.split("\t") for line in printed.out.splitlines()]
    assert [row[0] for row in rows] == [str(file) for file in files]
    assert [row[1] for row in rows] == list(expected.names)
    assert [int(row[2]) for row in rows] == expected.exits.tolist()
    assert [float(row[3]) for row in rows] == pytest.approx(expected.confidences, abs=1e-6)
    share = model.flops(expected).mean() / model.classic_flops
    assert f"{COUNT} images" in printed.err and f"{share:.1%} of the whole network's FLOPs" in printed.err


def test_json_gives_an_object_for_each_image_and_a_summary(
    exported: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, missing = digits / "bad.png", digits / "missing.png"
    bad.write_bytes(b"no image")
    good = files_of(digits / "3")
    names = [str(name) for name in (missing, *good, bad)]
    assert main(["predict", str(exported), *names, "--json", "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    *rows, last = map(json.loads, printed.out.splitlines())
    assert {row["image"] for row in rows if "error" in row} == {str(bad), str(missing)}
    answers = [row for row in rows if "error" not in row]
    assert [row["image"] for row in answers] == [str(file) for file in good]
    assert all(0 < row["confidence"] <= 1 and str(row["class_number"]) == row["class"] for row in answers)
    summary = last["summary"]
    assert summary["images"] == sum(summary["exits"].values()) == len(good) and summary["unreadable"] == 2
    assert summary["flops_share_of_classic"] > 0 and summary["images_per_second"] > 0
    assert f"cannot read image {bad} (not an image format that Pillow knows)" in printed.err
    assert f"cannot read image {missing} (there is no such file)" in printed.err


def test_names_come_from_a_pipe(
    exported: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = digits / os.fsdecode(b"new\xffname\x1b.png")
    odd.write_bytes(files_of(digits)[0].read_bytes())
    listing = digits / "names"
    listing.write_bytes(os.fsencode(odd) + b"\n\n" + os.fsencode(digits / "1") + b"\n")
    with listing.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["predict", str(exported), "-", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(files_of(digits / "1"))
    assert "new\\udcffname\\x1b.png" in lines[0]


@pytest.mark.parametrize(
    ("names", "told"),
    [(["-", "image.png"], "- stands for the names on stdin: give it alone")],
)
def test_what_is_no_request_is_refused(
    exported: Path, names: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(exported), *names]) == 2
    assert told in capsys.readouterr().err


def test_a_name_without_an_image_is_told(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "empty").mkdir()
    names = [str(tmp_path / "pipe.png"), str(tmp_path / "empty"), "x" * 300 + ".png"]
    assert main(["predict", str(exported), *names, "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "0 images; 3 not read" in printed.err
    for told in ("it is no file", "the folder holds no image", "File name too long"):
        assert told in printed.err


def test_a_slow_pipe_gets_answers_at_once_and_ctrl_c_ends_in_one_line(exported: Path, digits: Path) -> None:
    command = [sys.executable, "-m", "study.cli", "predict", str(exported), "-", "--device", "cpu"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        for file in files_of(digits)[:2]:  # the second name comes after the answer to the first one
            process.stdin.write(os.fsencode(file) + b"\n")
            process.stdin.flush()
            assert os.fsdecode(process.stdout.readline()).split("\t")[0] == str(file)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == b"predictive-exit: stopped\n"


def test_a_reader_that_stops_reading_is_no_error(exported: Path, digits: Path) -> None:
    script = f"set -o pipefail; {sys.executable} -m study.cli predict {exported} {digits} --batch-size 1 | head -1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment)
    assert ended.returncode == 0 and ended.stdout.count("\n") == 1
    assert "Traceback" not in ended.stderr


def test_evaluate_gives_scores_by_class(exported: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = files_of(digits)
    labels = [int(file.parent.name) for file in files]
    answers = EarlyExit.load(exported, device="cpu").predict(files).classes.tolist()
    result = result_of(f"evaluate --exported {exported} --images {digits} --device cpu", capsys)
    right = [label for label, answer in zip(labels, answers, strict=True) if label == answer]
    assert result["samples"] == COUNT and result["accuracy"] == len(right) / COUNT
    for number, row in enumerate(result["classes"]):
        assert row["class"] == str(number) and row["images"] == labels.count(number)
        assert row["answers"] == answers.count(number)
        assert row["recall"] == right.count(number) / labels.count(number)
        expected = right.count(number) / answers.count(number) if number in answers else None
        assert row["precision"] == expected


def test_images_in_no_class_folder_are_told(exported: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(files_of(digits)[0], digits / "beside.png")
    command = ["evaluate", "--exported", str(exported), "--images", str(digits), "--device", "cpu"]
    assert main([*command, "--json"]) == 1
    printed = capsys.readouterr()
    assert "beside.png (it lies in no folder of a class)" in printed.err
    found = json.loads(printed.out)
    assert (found["samples"], found["unreadable"]) == (COUNT, 1)


def test_a_checkpoint_scores_the_same_on_a_split_and_on_its_images_as_files(
    study_of_exits: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = EarlyExit.load(exported, device="cpu").facts["network"]["trial_id"]
    command = f"evaluate --pretrained {study_of_exits / 'checkpoints' / trial / 'best'} --device cpu --policy"
    command += " hierarchical --beta 2 --json"
    split = result_of(f"{command} --split test", capsys)
    test = load_test_set(DataSettings(name="digits", limit=400, test_limit=120), study_of_exits / "data")
    for number, (image, label) in enumerate(zip(test.images, test.labels, strict=True)):
        (tmp_path / "digits" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(tmp_path / "digits" / str(label) / f"{number}.png")
    (tmp_path / "digits" / "7" / "bad.png").write_bytes(b"no image")
    assert main([*command.split(), "--images", str(tmp_path / "digits")]) == 1
    printed = capsys.readouterr()
    files = json.loads(printed.out)
    for name in ("samples", "accuracy", "mean_exit", "flops"):
        assert files[name] == pytest.approx(split[name]), name
    assert files["unreadable"] == 1 and "bad.png" in printed.err
    right = sum(row["recall"] * row["images"] for row in files["classes"])
    assert right / files["samples"] == pytest.approx(split["accuracy"])


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        ("foreign", "has folders that are no class of the model: cat, train; its classes are 0, 1, 2"),
        ("flat", "has no class folders: it needs one for each of 0, 1, 2"),
        ("absent", "is not there"),
        ("hollow", "holds no image that can be read"),
    ],
)
def test_a_folder_of_other_classes_is_refused(
    exported: Path, tmp_path: Path, folder: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("foreign/cat", "foreign/train", "foreign/0", "flat", "hollow/3"):
        (tmp_path / name).mkdir(parents=True)
    assert main(["evaluate", "--exported", str(exported), "--images", str(tmp_path / folder), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert told in error and error.splitlines()[-1].startswith("predictive-exit: image folder")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("--beta 3", "--beta has no effect beside --exported"),
        ("", "--exported needs --images"),
    ],
)
def test_an_export_decides_its_own_options(
    exported: Path, more: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(f"evaluate --exported {exported} {more}".split()) == 2
    assert told in capsys.readouterr().err


def test_a_part_may_hold_a_tensor_twice() -> None:
    """An export stores equal tensors once, so that two layers can share their bias."""
    steps = [
        ["sum", "add.Tensor", [{"value": "x"}, {"tensor": "bias"}], {}],
        ["again", "add.Tensor", [{"value": "sum"}, {"tensor": "bias"}], {}],
        ["scaled", "mul.Tensor", [{"value": "again"}, {"tensor": "scale"}], {}],
    ]
    tensors = {"bias": torch.tensor([1.0, 2.0]), "scale": torch.tensor([10.0, 100.0])}
    part = Part({"inputs": ["x"], "steps": steps, "outputs": ["scaled"]}, tensors)
    x = torch.zeros(3, 2)
    expected = torch.tensor([[20.0, 400.0]]).expand(3, 2)
    for run in (part, graph_module(part, kernels=False)):
        torch.testing.assert_close(run(x)[0], expected)
