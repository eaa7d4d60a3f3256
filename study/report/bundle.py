"""The program that draws the charts: Vega, Vega-Lite and Vega-Embed as one script, from the package vl-convert.

Making the script takes some seconds. It depends on nothing but the version of the package, and is kept in the cache
folder of the user.
"""

from __future__ import annotations

import contextlib
import hashlib
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
        write_atomic(folder / f"{name}-{_digest(content)}.js", content)
    return script


def _kept(folder: Path, name: str) -> str | None:
    """The script of an earlier report; None where there is none, or none that is whole."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{name}-*.js"):
            content = path.read_bytes()
            if path.stem == f"{name}-{_digest(content)}":
                return content.decode()
    return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
