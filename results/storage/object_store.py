"""Paths on object stores, through the library obstore: connections, requests and their errors, objects."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

CLIENT: Any = {
    "client_options": {
        "allow_http": True,  # an endpoint that the user gives may be http://
        "connect_timeout": timedelta(seconds=5),
        "read_timeout": timedelta(seconds=30),
        "timeout": timedelta(minutes=10),  # of a whole request
    },
    "retry_config": {
        "max_retries": 100,
        "retry_timeout": timedelta(seconds=30),
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
    },
}
"""The patience of all requests. What fails for a reason that may pass is repeated, with growing pauses."""

OPTIONS: Mapping[str, Sequence[str]] = {"s3": ("endpoint_override", "region"), "gs": (), "az": ()}
"""The URI schemes of the stores, and the options that may follow the ``?`` of a URI."""

CHUNK_BYTES = 8 * 2**20
"""A larger object is uploaded in parts of this size."""

Options = tuple[tuple[str, str], ...]
Version: TypeAlias = dict[str, str]
"""Which version of an object: e-tag and version number, as far as the store has them."""

_STATUS = re.compile(r"status code: (\d{3})")
_STORE_ERROR = re.compile(r"<Code>(.*?)</Code><Message>(.*?)</Message>")
_ERRNO = {"401": errno.EACCES, "403": errno.EACCES, "404": errno.ENOENT}
_T = TypeVar("_T")


def _as_os_error(error: Exception, name: str) -> OSError:
    # The error of a listing has no class of its own for a status: the text tells the status.
    text = str(error).partition("\n\nDebug source")[0]
    status = _STATUS.search(text)
    number = _ERRNO.get(status[1], errno.EIO) if status else errno.EIO
    if isinstance(error, FileNotFoundError):
        number = errno.ENOENT
    told = _STORE_ERROR.search(text)
    if told and told[1] != "NoSuchKey":
        reason = f"{told[2].rstrip('.')} ({told[1]})"
    elif number == errno.EIO:
        reason = " ".join(text.partition("<")[0].rstrip(": ").split())
    else:
        reason = os.strerror(number)
    return OSError(number, reason, name)


@lru_cache(maxsize=64)
def connect(root: str, options: Options) -> Any:
    """The obstore store of a bucket; each bucket is opened once in a process.

    Args:
        root: ``s3://bucket``, ``gs://bucket`` or ``az://container``.
        options: names and values of ``OPTIONS``. Without an option ``endpoint_override`` or ``region`` the environment
            variables ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, ``AWS_REGION`` and ``AWS_DEFAULT_REGION`` count.

    Raises:
        OSError: nothing tells the region of a bucket of Amazon's or the account of a container of Azure, or the
            credentials lie in a profile.
    """
    from obstore.store import AzureStore, GCSStore, S3Store  # here: programs that work on local files need no obstore

    scheme, _, bucket = root.partition("://")
    if scheme == "gs":
        return GCSStore(bucket, **CLIENT)
    given, environment = dict(options), os.environ.get
    if scheme == "az":
        if not environment("AZURE_STORAGE_ACCOUNT_NAME"):
            raise OSError(errno.EINVAL, "the account is not known: set AZURE_STORAGE_ACCOUNT_NAME", root)
        return AzureStore(bucket, **CLIENT)
    endpoint = given.get("endpoint_override") or environment("AWS_ENDPOINT_URL_S3") or environment("AWS_ENDPOINT_URL")
    region = given.get("region") or environment("AWS_REGION") or environment("AWS_DEFAULT_REGION")
    if not (endpoint or region):
        raise OSError(errno.EINVAL, "the region of the bucket is not known: set AWS_REGION", root)
    profiles = Path(environment("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    if not environment("AWS_ACCESS_KEY_ID") and ("AWS_PROFILE" in os.environ or profiles.exists()):
        reason = "profiles of credentials are not read: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise PermissionError(errno.EACCES, f"{reason} (aws configure export-credentials --format env)", root)
    config: Any = {"region": region or "us-east-1", "disable_bulk_delete": True}  # bulk deletes: not in all stores
    if endpoint:
        config["endpoint"] = endpoint.rstrip("/")
    return S3Store(bucket, config=config, **CLIENT)


@dataclass(frozen=True)
class RemoteStat:
    """Size and time of an object, under the names of :class:`os.stat_result`."""

    st_size: int
    """Bytes."""
    st_mtime: float
    """Seconds since 1970; object stores tell whole seconds."""


@dataclass(frozen=True, order=True, repr=False)
class RemotePath:
    """A path on an object store.

    The object holds only text, so that it travels to other processes. All requests raise FileNotFoundError where the
    object or the bucket does not exist, PermissionError where the store refuses access, and else OSError with
    ``errno.EIO``; ``filename`` is the path.
    """

    root: str
    """Scheme and bucket: ``s3://bucket``."""
    key: PurePosixPath
    """Names below the bucket."""
    options: Options = ()
    """How the store is reached, sorted by name."""

    def __str__(self) -> str:
        """The URI from which :func:`results.storage.paths.location` makes the same path again."""
        path = "/".join([self.root, *(quote(part, safe="=+@,:~") for part in self.key.parts)])
        return f"{path}?{urlencode(self.options, safe=':/')}" if self.options else path

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __truediv__(self, name: str) -> RemotePath:
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{name!r} is not a path below {self}")
        return RemotePath(self.root, self.key / name, self.options)

    @property
    def plain(self) -> str:
        """For messages: scheme, bucket and names as they are, without options."""
        return "/".join([self.root, *self.key.parts])

    @property
    def name(self) -> str:
        """The last part; empty for the bucket itself."""
        return self.key.name

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return self.key.stem

    @property
    def suffix(self) -> str:
        """The last part from its last dot on."""
        return self.key.suffix

    @property
    def parent(self) -> RemotePath:
        """The folder of this path; the bucket's parent is the bucket."""
        return RemotePath(self.root, self.key.parent, self.options)

    def with_name(self, name: str) -> RemotePath:
        """The same path with another last part."""
        return RemotePath(self.root, self.key.with_name(name), self.options)

    def absolute(self) -> RemotePath:
        """The path itself."""
        return self

    def exists(self) -> bool:
        """Whether an object has this name, or objects exist below it."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether an object has this name."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether objects exist below this name."""
        with suppress(FileNotFoundError):
            return next(self.iterdir(), None) is not None
        return False

    def stat(self) -> RemoteStat:
        """Size and time of the object."""
        found = self._head()
        return RemoteStat(found["size"], found["last_modified"].timestamp())

    def version(self) -> Version:
        """Which version of the object there is."""
        return _version(self._head())

    def iterdir(self) -> Iterator[RemotePath]:
        """What lies in this folder, in no order."""
        listed = self._request(lambda store, key: store.list_with_delimiter(key))
        found = {*listed["common_prefixes"], *(one["path"] for one in listed["objects"])} - {self._text()}
        if not found:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return iter([self / PurePosixPath(path).name for path in found])

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """What lies in this folder under a name that matches; nothing where there is no folder."""
        assert "/" not in pattern and "**" not in pattern, "patterns reach no other folder"
        with suppress(FileNotFoundError):
            yield from (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def files_below(self) -> list[RemotePath]:
        """All objects in this folder and in the folders below, in no order."""
        found = self._request(lambda store, key: store.list(key).collect())
        return [RemotePath(self.root, PurePosixPath(one["path"]), self.options) for one in found]

    def listed_below(self) -> dict[str, tuple[int, str]]:
        """All objects in this folder and in the folders below: path below this folder -> bytes, and a text that changes
        with the content.
        """
        found = self._request(lambda store, key: store.list(key or None).collect())
        start = len(self._text()) + 1 if self.name else 0
        return {
            one["path"][start:]: (one["size"], one["e_tag"] or one["last_modified"].isoformat())
            for one in found
            if len(one["path"]) > start
        }

    def read_bytes(self) -> bytes:
        """The content of one version of the object."""
        return self._request(lambda store, key: bytes(store.get(key).bytes()))

    def download(self, target: BinaryIO) -> None:
        """Write the content of one version of the object to a file."""

        def get(store: Any, key: str) -> None:
            for chunk in store.get(key).stream(min_chunk_size=CHUNK_BYTES):
                target.write(chunk)

        self._request(get)

    def write_bytes(self, data: bytes) -> int:
        """Publish an object: readers see the old content or the new."""
        self._request(lambda store, key: store.put(key, data, chunk_size=CHUNK_BYTES))
        return len(data)

    def read_version(self) -> tuple[bytes, Version]:
        """The content of the object, and which version has this content."""

        def get(store: Any, key: str) -> tuple[bytes, Version]:
            found = store.get(key)
            return bytes(found.bytes()), _version(found.meta)

        return self._request(get)

    def write_if(self, data: bytes, replaced: Version | None) -> Version | None:
        """Publish an object unless another writer was faster (a conditional PUT).

        Args:
            data: a content that no other writer writes.
            replaced: the version that the object has until now; None: there is no object yet.

        Returns:
            The new version; None where the object has another version than ``replaced``.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        def put(store: Any, key: str) -> Version | None:
            try:
                return _version(store.put(key, data, mode=replaced or "create"))
            except (AlreadyExistsError, PreconditionError):
                return None

        written = self._request(put)
        if written is None:  # or the answer to a first request was lost, and the repeated request met its own object
            with suppress(FileNotFoundError):
                content, found = self.read_version()
                written = found if content == data else None
        return written

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove an object."""
        if not missing_ok:
            self._head()
        with suppress(FileNotFoundError):
            self._request(lambda store, key: store.delete(key))

    def copy_to(self, target: RemotePath) -> None:
        """Copy an object within its bucket, inside the store."""
        self._request(lambda store, key: store.copy(key, target._text()))

    def remove_all(self) -> None:
        """Remove an object and all objects below it; nothing happens where there is none."""
        assert self.name, "never a whole bucket"
        self.unlink(missing_ok=True)
        for file in self.files_below():
            file.unlink(missing_ok=True)

    def _text(self) -> str:
        return "/".join(self.key.parts)

    def _request(self, operation: Callable[[Any, str], _T]) -> _T:
        """Carry out ``operation(store, key)``; obstore repeats failed requests.

        The operation has a thread of its own, so that a signal is handled while the store is silent.
        """
        from obstore.exceptions import BaseError

        answer: Future[_T] = Future()

        def work() -> None:
            try:
                answer.set_result(operation(connect(self.root, self.options), self._text()))
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            return answer.result()
        except (BaseError, FileNotFoundError) as error:
            raise _as_os_error(error, str(self)) from None

    def _head(self) -> Any:
        return self._request(lambda store, key: store.head(key))


def _version(meta: Any) -> Version:
    return {name: meta[name] for name in ("e_tag", "version") if meta[name]}
