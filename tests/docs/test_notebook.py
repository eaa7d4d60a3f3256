"""The notebook runs from its first cell to its last, and holds the outputs of that run."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "decision.ipynb"


def outputs_of(notebook: Any) -> list[list[object]]:
    """What each cell of code shows, without pictures, whose bytes depend on fonts."""
    kept = ("text/plain", "text/html")
    return [
        [
            output.get("text") or {kind: text for kind, text in output["data"].items() if kind in kept}
            for output in cell["outputs"]
        ]
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]


class _ThisPython(AsyncKernelManager):
    """A kernel of the interpreter that runs the tests, whatever kernels are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])


def test_the_notebook_shows_what_its_cells_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    stored = nbformat.read(NOTEBOOK, as_version=4)
    again = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    kernels = _ThisPython()
    NotebookClient(again, km=kernels, timeout=120, resources=place).execute()
    asyncio.run(kernels.shutdown_kernel(now=True))
    assert outputs_of(again) == outputs_of(stored)
    assert len(outputs_of(stored)) > 8 and all(outputs_of(stored))


def test_the_site_has_a_page_with_the_code_and_the_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from site_hooks import notebook_page  # type: ignore[import-not-found]

    page = notebook_page(json.loads(NOTEBOOK.read_text("utf-8")), NOTEBOOK.name)
    assert "study = Study.open(" in page and "# From a finished study to a decision" in page
    assert "Recommended: point" in page and "why: the cheapest certified point" in page
    assert all(line.strip() for block in page.split("<div>")[1:] for line in block.split("</div>")[0].splitlines()[1:])
