"""What all commands share: documentation, signals, pipes."""

from __future__ import annotations

import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from study.cli.main import build_parser, main


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
        "from study.cli.main import _end_on_signals\n"
        "_end_on_signals()\n"
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


COMMANDS = {
    "run quickstart": True,
    "run quickstart --dry-run": False,
    "train": True,
    "train --no-save": False,
    "evaluate": False,
    "profile": False,
    "front run": False,
    "compare run": False,
    "pack run copy": False,
    "status run": False,
}
"""Commands, and whether the same command goes on after an interruption."""


@pytest.mark.parametrize(("command", "resumes"), COMMANDS.items())
def test_an_interruption_promises_only_what_is_true(
    command: str, resumes: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"study.cli.{command.split()[0]}.execute", interrupted)
    assert main(command.split()) == 130
    told = capsys.readouterr().err
    assert told.startswith("predictive-exit: stopped") and told.count("\n") == 1
    assert ("goes on" in told) == resumes


PACK = Path(__file__).parents[2] / "results" / "reference" / "vgg19-cifar10"


@pytest.mark.parametrize(
    "command",
    [
        "run --help",
        f"status {PACK}",
        f"front {PACK} --json",
    ],
)
def test_a_pipe_whose_reader_has_seen_enough_is_no_failure(command: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "study.cli", *command.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()  # before anything is written
    told = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), told) == (0, b"")


def test_results_of_a_network_and_progress_end_alike_without_a_reader(models: Path) -> None:
    """`... | head`: exit code 0. `... 2>&1 >file | head`: the work goes on, and its result is written."""
    command = [sys.executable, "-m", "study.cli", "evaluate", "--pretrained", str(models / "exits"), "--beta", "1.5"]
    for stream, other in (("stdout", "stderr"), ("stderr", "stdout")):
        process = subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        getattr(process, stream).close()
        told = getattr(process, other).read().decode()
        getattr(process, other).close()
        assert process.wait() == 0
        assert "Traceback" not in told and ("accuracy: " in told) == (stream == "stderr")


def test_a_refusal_keeps_its_exit_code_without_a_reader() -> None:
    for command in ("status nowhere", "frobnicate"):
        process = subprocess.Popen([sys.executable, "-m", "study.cli", *command.split()], stderr=subprocess.PIPE)
        assert process.stderr is not None
        process.stderr.close()
        assert process.wait() == 2
