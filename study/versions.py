"""The versions that results depend on."""

from __future__ import annotations

import platform
from importlib import metadata


def versions() -> dict[str, str]:
    """Of this program, the libraries that compute, Python and the machine."""
    names = ("predictive-exit", "torch", "torchvision", "torchao", "numpy", "numba", "optuna", "ray")
    return {
        **{name: _version(name) for name in names},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
