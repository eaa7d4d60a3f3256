"""Machines that do not give what a command needs: permissions, space, streams, a home."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_CAPABILITIES_VERSION_3 = 0x20080522
_MAY_READ_AND_WRITE_ALL = 0b110
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: with them, root may do what permission bits forbid."""


@contextlib.contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Let permission bits count for root too; for others they do anyway."""
    if os.geteuid() != 0:
        yield
        return
    library = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION_3, 0)
    held = (ctypes.c_uint32 * 6)()
    if library.capget(header, held) != 0:
        pytest.skip("capabilities cannot be read here")
    fewer = (ctypes.c_uint32 * 6)(*held)
    fewer[0] &= ~_MAY_READ_AND_WRITE_ALL  # the effective ones only: they can be taken back
    if library.capset(header, fewer) != 0:
        pytest.skip("capabilities cannot be given up here")
    try:
        yield
    finally:
        library.capset(header, held)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a full disk; Python ignores the signal that comes with it.

    Nothing is compiled meanwhile: Python would leave a truncated file among the installed packages.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def full_disk(folder: Path, size: str = "64k") -> Iterator[None]:
    """A file system of that size in a folder, where this may be mounted."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True, capture_output=True)


def apart(
    arguments: Sequence[str],
    folder: Path,
    *,
    redirect: str = "",
    variables: Mapping[str, str | None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own.

    Args:
        arguments: of ``predictive-exit``.
        folder: to run in.
        redirect: of the shell, as ``>&-``.
        variables: of the environment; None removes one.
    """
    known = {**os.environ, "PYTHONPATH": str(ROOT), **(variables or {})}
    command = f'exec "$0" -m study.cli "$@" {redirect}'
    return subprocess.run(
        ["bash", "-c", command, sys.executable, *arguments],
        cwd=folder,
        env={name: value for name, value in known.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
