"""Decoded images on this machine: arrays that are mapped, not read, and that all processes share.

An entry holds the images of one split at one size. Its name is a hash of what the digest of the images covers, so that
an entry is never wrong, only unused. An entry appears whole, by the rename of its folder. The folder of the cache can
be deleted at any time. Where it cannot be written, or an entry is too large, images stay in memory.

``PREDICTIVE_EXIT_CACHE`` names another folder than the user's cache folder, ``PREDICTIVE_EXIT_CACHE_GB`` the size that
all entries may have together; 0: no cache.
"""

from __future__ import annotations

import math
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from study.data.pixels import mean_and_std
from study.errors import UserError
from study.storage.locks import exclusive
from study.storage.strict_json import dumps, parse_json

DEFAULT_GIGABYTES = 50.0
_KEPT_FREE_BYTES = 10**9
_DAY_SECONDS = 86_400
_IMAGES, _FACTS = "images.npy", "facts.json"
Shape = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class CachedImages:
    """Images of an entry."""

    images: NDArray[np.uint8]
    """``[N, C, H, W]``, read-only."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Draft:
    """An entry that is being written; it has no name yet."""

    folder: Path
    images: np.memmap[tuple[int, ...], np.dtype[np.uint8]]

    @property
    def file(self) -> Path:
        """The file that ``images`` maps."""
        return self.folder / _IMAGES


@dataclass(frozen=True)
class ImageCache:
    """The cache of this machine."""

    folder: Path
    limit_bytes: int

    @classmethod
    def of_machine(cls) -> ImageCache | None:
        """The cache that the environment names; None where it asks for none.

        Raises:
            UserError: the size is no number.
        """
        text = os.environ.get("PREDICTIVE_EXIT_CACHE_GB") or str(DEFAULT_GIGABYTES)
        try:
            gigabytes = float(text)
        except ValueError:
            gigabytes = -1.0
        if not 0 <= gigabytes < 10**9:
            raise UserError(f"PREDICTIVE_EXIT_CACHE_GB is {text[:60]!r}: expected gigabytes, 0 for no cache")
        folder = os.environ.get("PREDICTIVE_EXIT_CACHE")
        place = Path(folder).expanduser() if folder else user_cache_path("predictive-exit") / "images"
        return cls(place.absolute(), int(gigabytes * 1e9)) if gigabytes else None

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Let other processes of this machine wait for the end of the body, which makes an entry if there is none.

        Where the folder has no locks, nobody waits: several processes may then decode the same images.
        """
        with ExitStack() as held:
            with suppress(OSError, UserError):
                lock = self.folder / "locks" / f"{name}.lock"
                held.enter_context(exclusive(lock, str(lock), patience_seconds=math.inf))
            yield

    def find(self, name: str, shape: Shape) -> CachedImages | None:
        """An entry; None where there is none. A damaged entry is removed."""
        entry = self._entry(name)
        if not entry.is_dir():  # an entry that another process publishes from here on is not this one
            return None
        with suppress(OSError, ValueError, KeyError, TypeError):
            images = _mapped(entry / _IMAGES, shape)
            facts = parse_json((entry / _FACTS).read_bytes())
            os.utime(entry / _FACTS)  # the least recently used entries make room for others
            mean, std = (tuple(map(float, facts[key])) for key in ("mean", "std"))
            if len(mean) == len(std) == shape[1]:
                return CachedImages(images, mean, std)
        shutil.rmtree(entry, ignore_errors=True)
        return None

    def draft(self, shape: Shape) -> Draft | None:
        """Room for images; None where there is none. End it by :meth:`publish` or :meth:`discard`."""
        needed = int(np.prod(shape))
        folder = self.folder / "pixels" / f".draft-{uuid.uuid4().hex}"
        with suppress(OSError):
            (self.folder / "pixels").mkdir(parents=True, exist_ok=True, mode=0o700)
            if needed > self.limit_bytes:
                return None
            self._make_room(needed)
            if shutil.disk_usage(self.folder).free - needed < _KEPT_FREE_BYTES:
                return None
            folder.mkdir(mode=0o700)
            try:
                images = np.lib.format.open_memmap(folder / _IMAGES, mode="w+", dtype=np.uint8, shape=shape)
                with (folder / _IMAGES).open("r+b") as file:  # a full disk is an error now, not a signal while writing
                    os.posix_fallocate(file.fileno(), 0, (folder / _IMAGES).stat().st_size)
                return Draft(folder, images)
            except (OSError, AttributeError):  # macOS has no such call
                shutil.rmtree(folder, ignore_errors=True)
        return None

    def publish(self, draft: Draft, name: str) -> CachedImages:
        """Give an entry its name, unless another process was faster.

        Raises:
            OSError: the cache was deleted meanwhile.
        """
        shape = draft.images.shape
        mean, std = mean_and_std(draft.images)
        draft.images.flush()  # otherwise a power cut could leave an entry whose pixels are zeros
        (draft.folder / _FACTS).write_text(dumps({"mean": list(mean), "std": list(std)}))
        entry = self._entry(name)
        try:
            draft.folder.rename(entry)
        except OSError:
            if not entry.is_dir():
                raise
            self.discard(draft)
        return CachedImages(_mapped(entry / _IMAGES, shape), mean, std)

    def discard(self, draft: Draft) -> None:
        """Remove a draft."""
        shutil.rmtree(draft.folder, ignore_errors=True)

    def _entry(self, name: str) -> Path:
        return self.folder / "pixels" / name

    def _make_room(self, needed: int) -> None:
        """Remove drafts of killed processes, and the least recently used entries, until there is room."""
        entries: list[tuple[float, int, Path]] = []
        for place in (self.folder / "pixels").iterdir():
            with suppress(OSError):
                if place.name.startswith(".draft-"):
                    if place.stat().st_mtime < time.time() - _DAY_SECONDS:
                        shutil.rmtree(place, ignore_errors=True)
                    continue
                entries.append(((place / _FACTS).stat().st_mtime, (place / _IMAGES).stat().st_size, place))
        total = sum(size for _, size, _ in entries)
        for _, size, place in sorted(entries):
            if total + needed <= self.limit_bytes:
                return
            shutil.rmtree(place, ignore_errors=True)
            total -= size


def _mapped(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The images of a file of the cache, read-only.

    Raises:
        OSError, ValueError: the file is missing, or holds other images.
    """
    images: NDArray[np.uint8] = np.load(file, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    if images.dtype != np.uint8 or images.shape != shape:
        raise ValueError(f"{file} holds no such images")
    return images
