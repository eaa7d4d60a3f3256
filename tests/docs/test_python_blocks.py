"""Every Python block of the README and of the pages runs as it stands."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from support.shelf import STUDY, finish_study

from study.costs.costs import Costs
from study.networks import registry
from study.networks.multi_exit import build_network
from study.networks.settings import NetworkSettings

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?:^`(?P<file>[\w.]+\.py)`:\n\n)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
"""A block, with the name of the file that holds it where the line before the block gives one."""
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if BLOCK.search(page.read_text("utf-8"))
]
RULES = {"costs": "intel-xeon-platinum-8280", "dvfs": ["race_to_idle", "paper"], "constraints": {"accuracy_drop": 0.9}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run folder of a small study, under the names of the studies that the pages read."""
    folder = tmp_path_factory.mktemp("runs")
    finish_study(folder / "quickstart", {**STUDY, "operating_points": {**STUDY["operating_points"], **RULES}})
    (folder / "frequency_scaling").symlink_to("quickstart")
    return folder


def given_arrays() -> dict[str, Any]:
    """What the README's example takes as given: logits, labels, thresholds, costs."""
    rng = np.random.default_rng(0)
    return {
        "logits": rng.normal(size=(60, 21, 10)),
        "labels": rng.integers(0, 10, 60),
        "thresholds": rng.uniform(0.1, 0.2, 20),
        "costs": Costs(segment_flops=np.ones(21), head_flops=np.ones(20), engine_step_flops=0.0),
    }


def given_network() -> dict[str, Any]:
    """What the page of devices takes as given: a network."""
    settings = NetworkSettings(backbone="vgg11", width=0.125)
    return {"network": build_network(settings, classes=10, image_size=32, channels=1)}


def given_parquet() -> dict[str, Any]:
    """What the page of images takes as given: images inside a parquet file, in the current folder."""
    content = io.BytesIO()
    Image.new("RGB", (9, 9)).save(content, "PNG")
    rows = {"image": [{"bytes": content.getvalue(), "path": None}] * 4, "label": [0, 1, 0, 1]}
    pd.DataFrame(rows).to_parquet("train.parquet")
    return {}


GIVEN: dict[str, Callable[[], dict[str, Any]]] = {
    "README.md": given_arrays,
    "devices.md": given_network,
    "images.md": given_parquet,
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_one_after_the_other(
    page: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_builders", dict(registry._builders))
    (tmp_path / "runs").symlink_to(runs)
    torch.manual_seed(0)
    text, namespace = page.read_text("utf-8"), GIVEN.get(page.name, dict)()
    for block in BLOCK.finditer(text):
        if block["file"]:
            Path(block["file"]).write_text(block["code"])
        else:
            line = text.count("\n", 0, block.start("code"))
            exec(compile("\n" * line + block["code"], page, "exec"), namespace)  # noqa: S102
