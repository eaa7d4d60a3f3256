"""The versions that results depend on."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path


def versions() -> dict[str, str]:
    """The versions of this program, of the libraries that compute, of Python, and the kind of machine.

    ``code`` is a hash of the sources of this program: between two releases the version does not change.
    """
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    """Found once: each checkpoint that is written tells its versions."""
    names = ("predictive-exit", "torch", "torchvision", "torchao", "numpy", "numba", "optuna", "ray")
    return {
        **{name: version_of(name) for name in names},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "code": _code_digest(),
    }


def version_of(name: str) -> str:
    """The version of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


@cache
def _code_digest() -> str:
    """Twelve hex digits that change with any source file of this program."""
    digest = hashlib.sha256()
    for package in ("results", "search_spaces", "study"):
        spec = find_spec(package)  # not imported: the schema of study files imports pydantic
        assert spec is not None and spec.submodule_search_locations
        root = Path(spec.submodule_search_locations[0])
        for file in sorted(root.rglob("*.py")):
            digest.update(f"{root.name}/{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]
