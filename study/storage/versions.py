"""The versions that results depend on."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path


def versions() -> dict[str, str]:
    """Of this program (``code``: a hash of its very sources), the libraries that compute, Python and the machine."""
    names = ("predictive-exit", "torch", "torchvision", "torchao", "numpy", "numba", "optuna", "ray")
    return {
        **{name: version_of(name) for name in names},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "code": _code_digest(),
    }


def version_of(name: str) -> str:
    """Of an installed distribution; this program runs from its bare sources too."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


@cache
def _code_digest() -> str:
    """Twelve digits that change with any source file: between two releases, the version alone does not tell."""
    digest = hashlib.sha256()
    for package in ("results", "search_spaces", "study"):
        spec = find_spec(package)  # found, not imported: a machine that trains needs no schema of study files
        assert spec is not None and spec.submodule_search_locations
        root = Path(spec.submodule_search_locations[0])
        for file in sorted(root.rglob("*.py")):
            digest.update(f"{root.name}/{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]
