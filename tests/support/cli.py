"""The command line in this process, and its printed results."""

from __future__ import annotations

import json

import pytest

from study.cli.main import main

TRAIN = "train --backbone vgg11 --width 0.125 --data digits --limit 240 --batch-size 32 --device cpu --precision fp32"


def result_of(command: str, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """What a command prints with ``--json``."""
    capsys.readouterr()
    assert main([*command.split(), "--json"]) == 0
    parsed = json.loads(capsys.readouterr().out)
    assert isinstance(parsed, dict)
    return parsed
