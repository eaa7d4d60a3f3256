"""The folder's own runner, and ``EarlyExit``, on machines that lack most packages."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from study import EarlyExit
from study.cli.main import main
from study.data.array_sources import array_part
from study.deploy.early_exit import Prediction

ROOT = Path(__file__).parents[2]
BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Test digits as image files of their own 8 x 8 pixels, and one twice as large."""
    folder = tmp_path_factory.mktemp("digits")
    raw = array_part("digits", "test", folder, download=False).raw[:60]
    for number, image in enumerate(raw):
        Image.fromarray(image[0]).save(folder / f"{number:03}.png")
    Image.fromarray(raw[0][0]).resize((50, 61)).convert("RGB").save(folder / "large.png")
    return sorted(folder.glob("*.png"))


@pytest.fixture(scope="session")
def expected(exported: Path, files: list[Path]) -> Prediction:
    return EarlyExit.load(exported, device="cpu").predict(files)


def hold_against(printed: str, files: list[Path], expected: Prediction) -> None:
    """Lines of file, class, exit and confidence, held against what ``EarlyExit`` answers."""
    lines = [line.split("\t") for line in printed.splitlines()]
    assert [line[0] for line in lines] == [str(file) for file in files]
    assert [line[1] for line in lines] == list(expected.names)
    assert [int(line[2]) for line in lines] == expected.exits.tolist()
    np.testing.assert_allclose([float(line[3]) for line in lines], expected.confidences, atol=1e-4)


def blocking(folder: Path, *blocked: str) -> dict[str, str]:
    """The environment of a process that cannot import some packages."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCKER.format(blocked=blocked))
    return {**{name: text for name, text in os.environ.items() if name != "PYTHONPATH"}, "PYTHONPATH": str(folder)}


def run(command: list[str | Path], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("runtime", "blocked"),
    [("torch", ("onnx", "onnxruntime", "torchvision", "torchao")), ("onnx", ("torch", "safetensors", "onnx"))],
)
def test_the_runner_needs_nothing_of_this_program(
    runtime: str, blocked: tuple[str, ...], exported: Path, files: list[Path], expected: Prediction, tmp_path: Path
) -> None:
    environment = blocking(tmp_path / "block", "study", "results", "search_spaces", "ray", "optuna", "pandas", *blocked)
    command = [sys.executable, exported / "run.py", "--runtime", runtime, "--batch-size", "17", *files]
    hold_against(run(command, environment, tmp_path), files, expected)
    assert len(set(expected.exits.tolist())) > 1, "the images stop at several exits"


def test_early_exit_needs_neither_ray_nor_optuna_nor_pandas(
    exported: Path, files: list[Path], expected: Prediction, tmp_path: Path
) -> None:
    blocked = ("ray", "optuna", "pandas", "pyarrow", "torchao", "numba", "sklearn", "scipy", "onnx", "onnxruntime")
    environment = blocking(tmp_path / "block", *blocked)
    environment["PYTHONPATH"] += os.pathsep + str(ROOT)
    code = f"""
    from study import EarlyExit
    found = EarlyExit.load({str(exported)!r}, device="cpu").predict({[str(file) for file in files]!r}, batch_size=16)
    print(*found.exits, *found.classes)
    """
    printed = run([sys.executable, "-c", textwrap.dedent(code)], environment, tmp_path)
    assert [int(word) for word in printed.split()] == [*expected.exits, *expected.classes]


def test_the_runner_refuses_a_damaged_file(exported: Path, files: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in exported.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "model.json").write_bytes((copy / "model.json").read_bytes() + b" ")
    done = subprocess.run([sys.executable, copy / "run.py", files[0]], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.strip() == "run.py: model.json does not match manifest.json: copy the folder anew"


def test_the_runner_passes_over_what_is_no_image(exported: Path, files: list[Path], tmp_path: Path) -> None:
    for name, content in (
        ("text.png", b"no image"),
        ("figure.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"),
    ):
        (tmp_path / name).write_bytes(content)
    named = [files[0], tmp_path / "text.png", tmp_path / "figure.eps", tmp_path / "missing.png", files[1]]
    done = subprocess.run([sys.executable, exported / "run.py", *named], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [str(file) for file in files[:2]]
    told = done.stderr.splitlines()
    for line, file in zip(told, named[1:4], strict=True):
        assert line.startswith(f"run.py: cannot read image {file} (")
    assert "EPS is a program" in told[1]


def test_the_runner_refuses_what_it_cannot_do_in_one_line(exported: Path, files: list[Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("run.py", "torch_parts.py", "model.json", "manifest.json", "graphs.json"):
        (bare / name).write_bytes((exported / name).read_bytes())
    environment = blocking(tmp_path / "block", "onnxruntime")
    for folder, arguments, code, told in (
        (bare, ["--runtime", "onnx"], 2, "no files for onnx: export with --format onnx or all"),
        (exported, ["--batch-size", "0"], 2, "--batch-size must be at least 1"),
        (
            exported,
            ["--runtime", "onnx"],
            2,
            "needs a package that is not here (onnxruntime is blocked)",
        ),
        (bare, [], 1, "weights.safetensors is missing: copy the folder anew"),
    ):
        command = [sys.executable, folder / "run.py", *arguments, files[0]]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stdout) == (code, "")
        assert told in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_without_onnx_the_command_says_what_to_install(
    study_of_exits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", str(study_of_exits), "--output", str(tmp_path / "new"), "--format", "onnx"]) == 2
    assert "install the extra onnx" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "packages"),
    [("torch", ["torch", "numpy", "safetensors", "pillow"]), ("onnx", ["onnxruntime", "numpy", "pillow"])],
)
def test_the_runner_in_a_fresh_environment(
    runtime: str, packages: list[str], exported: Path, files: list[Path], expected: Prediction, tmp_path: Path
) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True, env=environment)
    hold_against(
        run([python, exported / "run.py", "--runtime", runtime, *files], environment, tmp_path), files, expected
    )
