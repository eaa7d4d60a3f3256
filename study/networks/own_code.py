"""Backbones ``module:function``: the user's own code, in one file beside the study file.

Only files in folders that the user names are read: the folder of the study file, or ``--code``. A checkpoint and a run
folder hold a digest of the file, never code; a file with another digest is refused. Workers of a cluster get the
source from the driver. Importing this module needs no torch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib.abc import SourceLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from search_spaces.words import short
from study.errors import UserError

LIBRARIES = ("torchvision", "timm")
LARGEST_FILE = 10**6
_NAME = re.compile(r"([A-Za-z_]\w*):([A-Za-z_]\w*)")
_folders: list[Path] = []
_sources: dict[str, str] = {}
"""Digest -> source, of the files that were read here or came from the driver."""
_modules: dict[str, ModuleType] = {}
"""Digest -> the module that the source made."""


def is_own(backbone: str) -> bool:
    """Whether a name is ``module:function`` of the user's own."""
    found = _NAME.fullmatch(backbone)
    return found is not None and found[1] not in LIBRARIES


def trust(folder: Path) -> None:
    """Let backbones be found in a folder, before the folders that were named earlier."""
    folder = folder.absolute()
    _folders[:] = [folder, *(one for one in _folders if one != folder)]


def trust_only(*folders: Path) -> None:
    """Let backbones be found in these folders, and in none that were named earlier."""
    _folders[:] = [folder.absolute() for folder in folders]


def digest_of(backbone: str) -> str:
    """The digest of the file of ``module:function``.

    Raises:
        UserError: no folder that the user named has the file, or the file is no source.
    """
    source = _read(backbone)
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    _sources[digest] = source
    return digest


def known_sources() -> dict[str, str]:
    """The sources that this process knows, for workers."""
    return dict(_sources)


def add_sources(sources: Mapping[str, str]) -> None:
    """Know the sources of the driver."""
    _sources.update(sources)


def load_function(backbone: str, code: str | None) -> Callable[..., Any]:
    """The function of ``module:function``; the module runs once for each content of its file.

    Args:
        backbone: the name.
        code: the digest that the file must have; None: any.

    Raises:
        UserError: the file is missing, has changed, cannot be imported, or has no such function.
    """
    module, _, function = backbone.partition(":")
    if code is None or code not in _sources:
        found = digest_of(backbone)
        if code not in (None, found):
            raise UserError(
                f"backbone {backbone}: {module}.py has changed since the network was made: its digest is {found}, "
                f"expected {code}"
            )
        code = found
    if code not in _modules:
        _modules[code] = _run(module, code)
    build = getattr(_modules[code], function, None)
    if not callable(build):
        raise UserError(f"backbone {backbone}: {module}.py has no function {function!r}")
    made: Callable[..., Any] = build
    return made


def described(backbone: str, error: Exception) -> str:
    """An error of the user's code in one line, with its place in the file."""
    module = backbone.partition(":")[0]
    lines = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == f"{module}.py"]
    place = f" ({module}.py, line {lines[-1]})" if lines else ""  # a syntax error names its place itself
    return f"{type(error).__name__}: {short(error, 160)}{place}"


def _read(backbone: str) -> str:
    name = f"{backbone.partition(':')[0]}.py"
    for folder in _folders:
        path = folder / name
        if not path.exists():
            continue
        if not path.is_file() or path.stat().st_size > LARGEST_FILE:
            raise UserError(f"backbone {backbone}: {path} is no source file")
        try:
            return path.read_text("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"backbone {backbone}: {path} is not UTF-8") from None
    where = " or ".join(map(str, _folders)) or "any folder that you named"
    raise UserError(f"backbone {backbone}: there is no {name} in {where}: name its folder with --code DIR")


class _Loader(SourceLoader):
    """Loads a module from its source. Tools that show the source find it."""

    def __init__(self, module: str, source: str) -> None:
        self._file, self._source = f"{module}.py", source

    def get_filename(self, fullname: str) -> str:
        return self._file

    def get_data(self, path: bytes | str) -> bytes:
        return self._source.encode() if path == self._file else b""


def _run(module: str, code: str) -> ModuleType:
    name = f"predictive_exit_own_{code}_{module}"  # hides no other module
    spec = importlib.util.spec_from_loader(name, _Loader(module, _sources[code]))
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    try:
        spec.loader.exec_module(made)
    except Exception as error:  # whatever the user's file does
        del sys.modules[name]
        raise UserError(f"backbone {module}: its file cannot be imported: {described(module, error)}") from None
    return made
