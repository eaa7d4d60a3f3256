"""What ``torch.compile`` needs of a machine."""

from __future__ import annotations

import os
import shlex
import shutil
import sysconfig
import tempfile
from pathlib import Path

import torch

from study.errors import UserError
from study.storage.publish import check_writable


def check_compiler(device: torch.device) -> None:
    """Refuse a machine on which ``torch.compile`` cannot make kernels, before anything is computed.

    Kernels for CPUs are C++ code, and kernels for GPUs have a small C program around them. Both are compiled with the
    headers of Python into a cache folder, and loaded from there.

    Raises:
        UserError: the compiler or the headers are missing, or the cache folder cannot hold code.
    """
    cuda = device.type == "cuda"
    variable, language, names = ("CC", "C", ["gcc", "clang"]) if cuda else ("CXX", "C++", ["g++"])
    names = shlex.split(os.environ.get(variable, ""))[:1] or names
    if not any(shutil.which(name) for name in names):
        raise UserError(
            f"--compile needs a {language} compiler, and there is no {' or '.join(names)}: install one, name one in "
            f"the variable {variable}, or leave --compile out"
        )
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").exists():
        raise UserError(
            f"--compile needs Python's headers, and there is no Python.h in {headers}: install them (python3-dev), or"
            " leave --compile out"
        )
    cache = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir()).absolute()
    way_out = "name another folder in the variable TORCHINDUCTOR_CACHE_DIR, or leave --compile out"
    try:
        check_writable(cache)
    except UserError as error:
        raise UserError(f"--compile: {error}; {way_out}") from None
    nearest = next(path for path in (cache, *cache.parents) if path.exists())
    if os.statvfs(nearest).f_flag & os.ST_NOEXEC:
        raise UserError(f"--compile: {nearest} is mounted noexec, so that compiled kernels cannot be loaded; {way_out}")
