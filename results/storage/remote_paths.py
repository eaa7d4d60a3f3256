"""A path on an object store that behaves like a local one."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, urlencode

from results.storage.object_store import Options, connect, persistently

CHUNK_BYTES = 64 * 2**20
_T = TypeVar("_T")


@dataclass(frozen=True, order=True, repr=False)
class RemotePath:
    """A path on an object store, with the methods of :class:`pathlib.Path` that this project uses.

    It holds only text, so that it travels to other processes; the connection is opened where it is first used, once a
    process. Every error is an OSError with the path as ``filename``: FileNotFoundError where an object or the bucket is
    missing, PermissionError where access is denied, both at once; others after half a minute of repeats.
    """

    root: str
    """CompiledPolicy and bucket: ``s3://bucket``."""
    key: PurePosixPath
    """Names below the bucket."""
    options: Options = ()
    """How the store is reached, sorted by name."""

    def __str__(self) -> str:
        """The URI from which :func:`location` makes the same path again."""
        path = "/".join([self.root, *(quote(part, safe="=+@,:~") for part in self.key.parts)])
        return f"{path}?{urlencode(self.options, safe=':/')}" if self.options else path

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __truediv__(self, name: str) -> RemotePath:
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{name!r} is not a path below {self}")
        return RemotePath(self.root, self.key / name, self.options)

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
        """The folder around; the bucket's parent is the bucket."""
        return RemotePath(self.root, self.key.parent, self.options)

    def with_name(self, name: str) -> RemotePath:
        """The same path with another last part."""
        return RemotePath(self.root, self.key.with_name(name), self.options)

    def absolute(self) -> RemotePath:
        """The path itself."""
        return self

    def expanduser(self) -> RemotePath:
        """The path itself."""
        return self

    def exists(self) -> bool:
        """Whether an object has this name, or names below it exist."""
        return self._kind() != "NotFound"

    def is_file(self) -> bool:
        """Whether an object has this name."""
        return self._kind() == "File"

    def is_dir(self) -> bool:
        """Whether names below this one exist."""
        return self._kind() == "Directory"

    def iterdir(self) -> Iterator[RemotePath]:
        """What lies in this folder, in no order."""
        from pyarrow.fs import FileSelector  # not at the top: programs that work on local files need no pyarrow

        infos = self._persistently(lambda store, path: store.get_file_info(FileSelector(path)))
        return iter([self / info.base_name for info in infos])

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """What lies in this folder under a name that matches; nothing where there is no folder."""
        assert "/" not in pattern and "**" not in pattern, "patterns reach no other folder"
        with suppress(FileNotFoundError):
            yield from (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def read_bytes(self) -> bytes:
        """The content of one generation of the object."""
        content = BytesIO()
        self.download(content)
        return content.getvalue()

    def read_text(self, encoding: str = "utf-8") -> str:
        """The content as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> int:
        """Publish an object by one PUT: readers see the old content or the new."""

        def put(store: Any, path: str) -> None:
            with store.open_output_stream(path, compression=None) as stream:  # the default compresses `*.gz`
                stream.write(data)

        self._persistently(put)
        return len(data)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove an object."""
        if not missing_ok:
            self._file_info()
        with suppress(FileNotFoundError):  # also the answer to a repeat of a request that was carried out
            self._persistently(lambda store, path: store.delete_file(path))

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Make a folder on stores that have folders; object stores have none, nothing is done there.

        Raises:
            FileExistsError: it exists and may not.
        """
        if not exist_ok and self.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self))
        if not self.root.startswith(("s3:", "gs:")):
            self._persistently(lambda store, path: store.create_dir(path, recursive=parents))

    def size(self) -> int:
        """Bytes in the object."""
        return int(self._file_info().size)

    def modified(self) -> float:
        """When the object was written, in seconds since 1970; object stores tell whole seconds."""
        return float(self._file_info().mtime_ns / 1e9)

    def version(self) -> str:
        """Another text whenever the object was replaced."""

        def tags(store: Any, path: str) -> str:
            with store.open_input_file(path) as stream:
                return _tags(stream)

        info = self._file_info()
        return f"{info.size} {info.mtime_ns} {self._persistently(tags)}"

    def download(self, target: BinaryIO) -> None:
        """Write the object's content to a file.

        pyarrow asks for an object's size first and for that many bytes then: of an object that grew meanwhile it would
        give the beginning. Hence the comparison of its tags before and after.
        """

        def get(store: Any, path: str) -> None:
            target.seek(0)
            target.truncate()
            with store.open_input_file(path) as stream:
                tags = _tags(stream)
                while chunk := stream.read(CHUNK_BYTES):
                    target.write(chunk)
            with store.open_input_file(path) as stream:
                if _tags(stream) != tags:
                    raise OSError("it was replaced while it was read")

        self._persistently(get)

    def files_below(self) -> list[RemotePath]:
        """All objects in this folder and the folders in it, in no order."""
        from pyarrow.fs import FileSelector

        def below(store: Any, path: str) -> list[str]:
            infos = store.get_file_info(FileSelector(path, recursive=True))
            return [str(PurePosixPath(info.path).relative_to(path)) for info in infos if info.is_file]

        return [self / name for name in self._persistently(below)]

    def copy_to(self, target: RemotePath) -> None:
        """Copy an object within its bucket; its content stays in the store."""

        def copy(store: Any, path: str) -> None:
            _, target_path = target._connected()
            # GCS copies only into folders that it knows.
            store.create_dir(str(PurePosixPath(target_path).parent), recursive=True)
            store.copy_file(path, target_path)

        self._persistently(copy)

    def remove_all(self) -> None:
        """Remove an object, or a folder with all below; nothing where there is neither."""
        assert self.name, "never a whole bucket"
        if self.is_file():
            self.unlink(missing_ok=True)
        if self.is_dir():
            with suppress(FileNotFoundError):
                self._persistently(lambda store, path: store.delete_dir(path))

    def _connected(self) -> tuple[Any, str]:
        store, bucket = connect(self.root, self.options)
        return store, str(PurePosixPath(bucket) / self.key)

    def _persistently(self, operation: Callable[[Any, str], _T]) -> _T:
        """Carry out ``operation(filesystem, path)``, repeated where it fails for reasons that may pass."""
        return persistently(lambda: operation(*self._connected()), str(self))

    def _kind(self) -> str:
        return str(self._persistently(lambda store, path: store.get_file_info(path).type.name))

    def _file_info(self) -> Any:
        info = self._persistently(lambda store, path: store.get_file_info(path))
        if not info.is_file:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return info


def _tags(stream: Any) -> str:
    """What object stores change whenever an object is replaced; nothing elsewhere."""
    return repr(sorted(stream.metadata().items()))
