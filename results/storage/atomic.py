"""Files that are whole or absent."""

from __future__ import annotations

import os
import re
import uuid

from results.storage.paths import Location, RemotePath

_DRAFT = re.compile(r"\..+\.[0-9a-f]{32}")


def is_draft(name: str) -> bool:
    """Whether a file of this name is what a killed :func:`write_atomic` left."""
    return _DRAFT.fullmatch(name) is not None


def write_atomic(path: Location, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    A local file is flushed to disk under a temporary name in the same folder, then renamed; an object is one PUT.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(path, RemotePath):
        path.write_bytes(data)
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:  # a full disk does not say of itself which file it was
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
