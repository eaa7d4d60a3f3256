"""What answers at once: ``--help`` and ``status`` import none of the libraries that take seconds to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.shelf import STUDY

import results
from search_spaces.spec import validate_space
from study.run.folder import STUDY_FILE, claim_folder

SLOW = ("torch", "torchvision", "ray", "optuna", "numba", "matplotlib")
COMMANDS = (
    "run",
    "train",
    "evaluate",
    "profile",
    "front",
    "compare",
    "predict",
    "serve",
    "report",
    "watch",
    "pack",
    "status",
)


def imported_by(*commands: list[str]) -> dict[str, str]:
    """The slow libraries that commands import, one command after the other in a process of their own."""
    program = (
        "import sys\n"
        "from study.cli.main import main\n"
        f"for arguments in {list(commands)!r}:\n"
        "    try:\n        main(arguments)\n"
        "    except SystemExit as end:\n        assert end.code == 0\n"
        f"    print('imported by', *arguments, ':', *[name for name in {SLOW!r} if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = [line for line in ended.stdout.splitlines() if line.startswith("imported by ")]
    return dict(line.removeprefix("imported by ").split(" :") for line in lines)


def test_help_imports_nothing_slow() -> None:
    assert imported_by(["--help"], *([command, "--help"] for command in COMMANDS)) == {
        "--help": "",
        **{f"{command} --help": "" for command in COMMANDS},
    }


@pytest.mark.parametrize("extended", [False, True])
def test_status_imports_nothing_slow(extended: bool, tmp_path: Path) -> None:
    """Nor where the trials of an extended study are planned anew."""
    folder = tmp_path / "run"
    claim_folder(validate_space(STUDY, "small").plain(), folder, {"digits": "0" * 64})
    if extended:
        stored = yaml.safe_load((folder / STUDY_FILE).read_text())
        stored["provenance"]["extended"] = [{"on": stored["provenance"]["created"], "changes": []}]
        (folder / STUDY_FILE).write_text(yaml.safe_dump(stored))
    assert imported_by(["status", str(folder)]) == {f"status {folder}": ""}


def test_questions_about_stored_fronts_import_no_torch() -> None:
    pack = Path(results.__file__).parent / "reference" / "vgg19-quarter-tiny-imagenet"
    found = imported_by(["front", str(pack)], ["compare", str(pack)])
    assert found == {f"front {pack}": "", f"compare {pack}": " numba"}
