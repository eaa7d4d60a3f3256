"""Where the compiled loops of replay lie."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILL = """
import numpy as np
from study.policies.kernels import fill_ratios
table = np.empty((2, 1, 1))
fill_ratios(np.ones((2, 2, 3), dtype=np.float32), np.ones(1), table)
assert (table == 1).all()
print(fill_ratios.__module__, sum(fill_ratios.stats.cache_hits.values()), fill_ratios.stats.cache_path)
"""


def test_two_installations_of_one_version_share_the_compiled_code(tmp_path: Path) -> None:
    for package in ("study", "search_spaces", "results"):
        shutil.copytree(ROOT / package, tmp_path / "other" / package, ignore=shutil.ignore_patterns("reference"))
    cache = tmp_path / "cache"
    hits, folders = [], set()
    for place in (ROOT, tmp_path / "other"):
        environment = {**os.environ, "PYTHONPATH": str(place), "NUMBA_CACHE_DIR": str(cache)}
        done = subprocess.run(
            [sys.executable, "-c", FILL], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        module, number, folder = done.stdout.split()
        assert module == "study.policies.kernels" and Path(folder).parent == cache
        hits.append(int(number))
        folders.add(folder)
    assert hits == [0, 1] and len(folders) == 1
