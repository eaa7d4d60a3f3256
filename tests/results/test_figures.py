"""Figures are files: no setting for windows or notebooks has a say in them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
from pathlib import Path
import pandas as pd
from results.figures import exact_figure, front_figure
points = pd.DataFrame({"accuracy": [0.8, 0.9], "flops_share": [0.5, 0.9], "energy_share": [0.4, 0.8]})
exact_figure(points, 0.9, Path(sys.argv[1]) / "exact.png")
front_figure(Path(sys.argv[2]), Path(sys.argv[1]) / "front.svg")
import matplotlib
print(os.environ["MPLBACKEND"], matplotlib.rcParams["backend"])
"""
TABLES = Path(__file__).parents[2] / "results" / "reference" / "vgg19-cifar10" / "tables"


@pytest.mark.parametrize(
    ("backend", "in_force"),
    [("module://matplotlib_inline.backend_inline", None), ("nonsense", None), ("tkagg", "tkagg"), ("agg", "agg")],
)
def test_figures_are_drawn_whatever_backend_the_environment_names(
    tmp_path: Path, backend: str, in_force: str | None
) -> None:
    """Such as that of a notebook, whose commands inherit it. Windows of the same process keep their backend."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(TABLES)]
    ended = subprocess.run(command, env={**os.environ, "MPLBACKEND": backend}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in tmp_path.iterdir() if path.stat().st_size} == {"exact.png", "front.svg"}
    before, after = ended.stdout.split()
    assert before == backend and (in_force is None or after == in_force)
