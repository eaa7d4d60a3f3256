"""Where files lie: a local path, or a path on an object store.

:func:`location` makes either kind from the text that a user wrote. Code takes a :class:`Location`, whose contract both
kinds keep.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from urllib.parse import parse_qsl, unquote

from results.storage.object_store import OPTIONS, RemotePath

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]+")


Location: TypeAlias = Path | RemotePath
"""A place of a file or folder. :class:`RemotePath` has the methods of ``Path`` that this program uses.

Consistency: a read after a write sees what was written, from every process, and a listing names every written file. An
object is published as a whole by one request. A local file is published as a whole by
:func:`results.storage.atomic.write_atomic`, not by ``write_bytes``. Object stores have no folders, only names with
slashes: a folder exists while an object lies below it, and a rename is a copy and a removal (:func:`set_aside`).

Errors: every error is an OSError with the path as ``filename``: FileNotFoundError where nothing has the name,
PermissionError where access is refused. Requests to an object store are repeated for half a minute before any other
error is raised.

Credentials of an object store come from the environment, or from the machine's role. No bucket is ever created.
"""


def location(text: str) -> Location:
    """A local path, or a path on the object store that a URI names.

    Args:
        text: ``s3://bucket/folder``, ``gs://bucket/folder``, ``az://container/folder``, ``file:///folder`` or a path;
            ``~`` is the home folder. An S3 store other than Amazon's is reached by
            ``?endpoint_override=https://host:port``; ``&region=`` may follow. Nothing is opened yet.

    Raises:
        ValueError: the URI cannot be used. The message never repeats what may be a secret.
    """
    scheme, mark, rest = text.partition("://")
    scheme = scheme.lower()
    if not mark:
        return expanded(Path(text))
    if scheme == "file":
        if not rest.startswith("/"):
            raise ValueError("a file:// location needs an absolute path: file:///folder")
        return Path(unquote(rest))
    if scheme not in OPTIONS:
        known = "s3://bucket/.., gs://bucket/.. or az://container/.."
        raise ValueError(f"{scheme}:// is no storage that can be used: give a folder, {known}")
    path, _, query = rest.partition("?")
    bucket, _, key = path.partition("/")
    if "@" in bucket or ":" in bucket or "@" in query:
        raise ValueError(f"a {scheme}:// location holds no credentials: set them in the environment instead")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"a {scheme}:// location needs a bucket: {scheme}://bucket/folder")
    options = dict(parse_qsl(query))
    for name in options.keys() - OPTIONS[scheme]:
        raise ValueError(
            f"a {scheme}:// location has no option {name!r}: it has {', '.join(OPTIONS[scheme]) or 'none'}"
        )
    if not options.get("endpoint_override", "https://").startswith(("http://", "https://")):
        raise ValueError("endpoint_override begins with http:// or https://")
    return RemotePath(f"{scheme}://{bucket}", PurePosixPath(), tuple(sorted(options.items()))) / unquote(key).strip("/")


def expanded(path: Path) -> Path:
    """A path whose ``~`` or ``~user`` is replaced by the home folder.

    Raises:
        ValueError: the user has no home folder.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: {path.parts[0]} stands for a home folder that is not known") from None


def is_no_file(location: Location) -> bool:
    """Whether this name belongs to something else than a file: a folder, or a pipe, whose reading could block.

    Object stores have no such things: no request is sent.
    """
    return isinstance(location, Path) and location.exists() and not location.is_file()


def set_aside(location: Location) -> Location:
    """Rename a file or folder to ``<name>.damaged`` in the same folder, in place of an older one; return the new name.

    On an object store each object is copied, then the old names are removed: a process killed meanwhile leaves all old
    names, or all new names and some of the old names.

    Raises:
        FileNotFoundError: nothing has this name.
    """
    if not location.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(location))
    name = f"{location.name}.damaged"
    if isinstance(location, RemotePath):
        target = location.with_name(name)
        target.remove_all()
        if location.is_file():
            location.copy_to(target)
        for file in location.files_below():
            file.copy_to(target / str(file.key.relative_to(location.key)))
        location.remove_all()
        return target
    aside = location.with_name(name)
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    aside.unlink(missing_ok=True)
    return location.rename(aside)


def as_local_file(location: Location) -> Path:
    """A file that can be mapped into memory: the path itself, or a copy of the object.

    Copies lie in a temporary folder of this process, which its end removes. An object that did not change is not copied
    again.

    Raises:
        FileNotFoundError: the object does not exist.
    """
    if isinstance(location, Path):
        return location
    identity = f"{location} {location.version()}"
    folder = Path(_temporary_folder().name)
    copy = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:20]}{location.suffix}"
    if not copy.exists():
        partial = folder / uuid.uuid4().hex
        with partial.open("xb") as file:
            location.download(file)
        partial.replace(copy)
    return copy


@lru_cache(maxsize=1)
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="predictive-exit-")
