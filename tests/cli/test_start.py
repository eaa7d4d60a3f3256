"""What answers at once: ``--help`` imports none of the libraries that take seconds to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = ("torch", "torchvision", "ray", "optuna", "numba", "matplotlib")
COMMANDS = ("run", "train", "evaluate", "profile", "front", "compare", "pack", "status")


def imported_by(arguments: list[str]) -> str:
    """The slow libraries that a command imports, in a process of its own."""
    program = (
        "import sys\n"
        "from study.cli.main import main\n"
        f"try:\n    main({arguments!r})\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        f"print('imported:', *[name for name in {SLOW!r} if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return ended.stdout.splitlines()[-1]


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_imports_nothing_slow(arguments: list[str]) -> None:
    assert imported_by(arguments) == "imported:"
