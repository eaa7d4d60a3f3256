"""Where files lie: a local path, or a path on an object store.

:func:`location` makes either kind from what a user wrote. Code that keeps to the methods of :class:`RemotePath` need
not care which kind it holds. What the object stores give, and what they do not:

- One PUT (or one completed multipart upload) publishes an object: a reader sees the old content or the new.
- There are no folders, only names with slashes, and no renames. A killed writer leaves nothing that a listing shows
  (unfinished multipart uploads are removed by the bucket's lifecycle rule, if it has one).
- Requests fail now and then. Every operation here can be repeated, and is, for about half a minute.
- Credentials come from where the store's own tools find them: environment, profile, or the machine's role. For S3
  ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, ``AWS_REGION`` and ``AWS_DEFAULT_REGION`` count too. No bucket is ever
  created.
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

from results.storage.object_store import OPTIONS
from results.storage.remote_paths import RemotePath

__all__ = [
    "Location",
    "RemotePath",
    "as_local_file",
    "expanded",
    "is_no_file",
    "location",
    "modified",
    "set_aside",
    "size_of",
]

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]+")

Location: TypeAlias = Path | RemotePath


def location(text: str) -> Location:
    """A local path, or a path on the object store that a URI names.

    Args:
        text: ``s3://bucket/folder``, ``gs://bucket/folder``, ``file:///folder`` or a path; ``~`` is the home folder. A
            store other than Amazon's is reached by ``?endpoint_override=https://host:port``; ``region`` and ``scheme``
            may follow, separated by ``&``. Nothing is opened yet.

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
        raise ValueError(f"{scheme}:// is no storage that can be used: give a folder, s3://bucket/.. or gs://bucket/..")
    path, _, query = rest.partition("?")
    bucket, _, key = path.partition("/")
    if "@" in bucket or ":" in bucket or "@" in query:
        raise ValueError(f"a {scheme}:// location holds no credentials: set them in the environment instead")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"a {scheme}:// location needs a bucket: {scheme}://bucket/folder")
    options = dict(parse_qsl(query))
    for name in options.keys() - OPTIONS[scheme]:
        raise ValueError(f"a {scheme}:// location has no option {name!r}, only {', '.join(sorted(OPTIONS[scheme]))}")
    return RemotePath(f"{scheme}://{bucket}", PurePosixPath(), tuple(sorted(options.items()))) / unquote(key).strip("/")


def expanded(path: Path) -> Path:
    """A path whose ``~`` or ``~user`` is a home folder.

    Raises:
        ValueError: nobody knows that home folder.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: nobody knows the home folder that {path.parts[0]} stands for") from None


def size_of(location: Location) -> int:
    """Bytes in a file.

    Raises:
        FileNotFoundError: there is no such file.
    """
    return location.stat().st_size if isinstance(location, Path) else location.size()


def is_no_file(location: Location) -> bool:
    """Whether something else than a file has this name: a folder, or a pipe, whose reading could wait without end.

    Object stores have no such things, and are not asked.
    """
    return isinstance(location, Path) and location.exists() and not location.is_file()


def modified(location: Location) -> float:
    """When a file was written last, in seconds since 1970; object stores tell whole seconds.

    Raises:
        FileNotFoundError: there is no such file.
    """
    return location.stat().st_mtime if isinstance(location, Path) else location.modified()


def set_aside(location: Location) -> Location:
    """Rename a file or folder to ``<name>.damaged`` in the same folder, in place of an older one; return the new name.

    On an object store each object is copied, then the old names are removed: a process killed meanwhile leaves all old
    names, or all new ones and some of the old.

    Raises:
        FileNotFoundError: there is nothing of that name.
    """
    aside = location.with_name(f"{location.name}.damaged")
    if not location.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(location))
    if isinstance(location, RemotePath) and isinstance(aside, RemotePath):
        aside.remove_all()
        if location.is_file():
            location.copy_to(aside)
        else:
            for file in location.files_below():
                file.copy_to(aside / str(file.key.relative_to(location.key)))
        location.remove_all()
    elif isinstance(location, Path) and isinstance(aside, Path):
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside)
        aside.unlink(missing_ok=True)
        location.rename(aside)
    return aside


def as_local_file(location: Location, cache: Path | None = None) -> Path:
    """A file that can be mapped into memory: the path itself, or a copy of the object.

    Args:
        location: a file.
        cache: folder of the copies. None: a temporary folder of this process, removed at its end. An object that did
            not change since is not copied again.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if isinstance(location, Path):
        return location
    identity = f"{location} {location.version()}"
    folder = _own_folder() if cache is None else cache
    copy = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:20]}{location.suffix}"
    if not copy.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{copy.name}.{uuid.uuid4().hex}"
        try:
            with partial.open("xb") as file:
                location.download(file)
            partial.replace(copy)
        finally:
            partial.unlink(missing_ok=True)
    return copy


def _own_folder() -> Path:
    return Path(_temporary_folder().name)


@lru_cache(maxsize=1)
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="predictive-exit-")
