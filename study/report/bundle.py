"""The program that draws the charts: Vega, Vega-Lite and Vega-Embed as one script, from the package vl-convert.

Making the script takes some seconds. It depends on nothing but the version of the package, and is kept in the cache
folder of the user. A page lets the script run, so that a script of somebody else must never come from there: the folder
and the file count only where they belong to the user, and nobody else may write them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from functools import cache
from importlib.metadata import version
from pathlib import Path

from platformdirs import user_cache_path

from results.storage.atomic import write_atomic

_USED = "window.vegaEmbed = vegaEmbed;"


@cache
def vega_bundle() -> str:
    """The script; it defines ``window.vegaEmbed``, and asks no host for anything."""
    name = f"vega-{version('vl-convert-python')}"
    folder = user_cache_path("predictive-exit")
    kept = _kept(folder, name)
    if kept is not None:
        return kept
    import vl_convert

    script: str = vl_convert.javascript_bundle(_USED).replace("</script", "<\\/script")
    content = script.encode()
    with contextlib.suppress(OSError):  # without a cache the next report takes as long as this one
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_atomic(folder / f"{name}-{_digest(content)}.js", content)
    return script


def _kept(folder: Path, name: str) -> str | None:
    """The script of an earlier report; None where there is none, or none that is whole and the user's own."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{name}-*.js"):
            if not (_is_own(folder) and _is_own(path)):
                continue
            content = path.read_bytes()
            if path.stem == f"{name}-{_digest(content)}":
                return content.decode()
    return None


def _is_own(path: Path) -> bool:
    """Whether a file or folder belongs to the user, and nobody else may write it. A link is refused."""
    found = path.lstat()
    if os.name != "posix":
        return True  # owners have no numbers there
    return not stat.S_ISLNK(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
