"""What is known of image files since they were last read: their sha256 by path, size and times.

A second start of a study then reads no file that did not change. The index is a file of the cache and can be deleted at
any time.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from results.storage.atomic import write_atomic
from study.data.decoding import DecodedFiles
from study.data.file_listing import ImageTree, Stats

_FORMAT = 1
_UNSETTLED_NANOSECONDS = 2 * 10**9
"""A file that changed so shortly before could change again within one tick of the clock of its file system.

Objects have the time 0: their e-tags tell every change.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class FileIndex:
    """The files below the root of a tree, read at a white level."""

    names: tuple[str, ...]
    stats: Stats
    digests: NDArray[np.uint8]
    """``[N, 32]``."""
    deepest: NDArray[np.uint16]
    rules: dict[str, str]
    """Name -> the rules that changed pixels, of the few files where there are any."""

    @classmethod
    def read(cls, cache: Path, root: ImageTree, white_level: int) -> FileIndex:
        """The index of a folder; an empty one where there is none that can be read."""
        try:
            with np.load(_path(cache, root, white_level), allow_pickle=False) as stored:
                texts = json.loads(stored["texts"].tobytes())
                index = cls(
                    names=tuple(texts["names"]),
                    stats=stored["stats"].astype(np.int64),
                    digests=stored["digests"].astype(np.uint8),
                    deepest=stored["deepest"].astype(np.uint16),
                    rules=dict(texts["rules"]),
                )
                shapes = (index.stats.shape, index.digests.shape, index.deepest.shape)
                if texts["format"] == _FORMAT and shapes == ((n := len(index.names), 4), (n, 32), (n,)):
                    return index
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            pass
        empty = np.zeros((0, 4), np.int64)
        return cls(names=(), stats=empty, digests=np.zeros((0, 32), np.uint8), deepest=np.zeros(0, np.uint16), rules={})

    def find(self, names: Sequence[str], stats: Stats) -> DecodedFiles | None:
        """What is known of files; None where one of them is new or has changed."""
        rows_of = {name: row for row, name in enumerate(self.names)}
        rows = np.array([rows_of.get(name, -1) for name in names], dtype=np.int64)
        if (rows < 0).any() or not np.array_equal(self.stats[rows], stats):
            return None
        content = self.digests[rows].tobytes()
        digests = [content[start : start + 32] for start in range(0, len(content), 32)]
        if self.rules:
            digests = [digest + self.rules.get(name, "").encode() for digest, name in zip(digests, names, strict=True)]
        return DecodedFiles(tuple(digests), self.deepest[rows])

    def write(
        self, cache: Path, root: ImageTree, white_level: int, *, names: Sequence[str], stats: Stats, found: DecodedFiles
    ) -> None:
        """Write the index with further files, which have just been read. ``stats`` are those of before the reading."""
        settled = stats[:, 1] < time.time_ns() - _UNSETTLED_NANOSECONDS
        new = {name: row for row, name in enumerate(names) if settled[row]}
        replaced = set(names)
        kept = [row for row, name in enumerate(self.names) if name not in replaced]
        added = list(new.values())
        digests = np.frombuffer(b"".join(found.digests[row][:32] for row in added), np.uint8).reshape(-1, 32)
        rules = {name: text for name, text in self.rules.items() if name not in replaced}
        rules |= {name: found.digests[row][32:].decode() for name, row in new.items() if len(found.digests[row]) > 32}
        texts = {"format": _FORMAT, "names": [*(self.names[row] for row in kept), *new], "rules": rules}
        content = io.BytesIO()
        np.savez(
            content,
            texts=np.frombuffer(json.dumps(texts).encode(), np.uint8),
            stats=np.concatenate([self.stats[kept], stats[added]]),
            digests=np.concatenate([self.digests[kept], digests]),
            deepest=np.concatenate([self.deepest[kept], found.deepest[added]]),
        )
        path = _path(cache, root, white_level)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(path, content.getvalue(), sync=False)


def _path(cache: Path, root: ImageTree, white_level: int) -> Path:
    name = hashlib.sha256(f"{root}\0{white_level}".encode(errors="surrogateescape")).hexdigest()[:32]
    return cache / "index" / f"{name}.npz"
