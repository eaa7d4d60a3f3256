"""Which files of a folder are images, and what is passed over.

Passed over are hidden names, what archive programs, file managers, network disks and version control leave behind, and
files whose ending is not that of an image that Pillow can decode. A file without an ending is an image if it begins as
one. Links are followed: data tools keep images in a store and link to them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from study.data.image_files import image_endings
from study.errors import UserError

_LEFT_BEHIND = frozenset(
    [
        "__macosx",
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "lost+found",
        "$recycle.bin",
        "system volume information",
        "cvs",
        "_darcs",
        "__pycache__",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "icon",
    ]
)
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_KINDS_SHOWN = 6
Stats: TypeAlias = NDArray[np.int64]
"""``[N, 4]``: bytes and time of the last change in ns, and two numbers that change with the file."""


class PassedOver(Counter[str]):
    """Kind -> how many entries of a folder were passed over."""

    def __str__(self) -> str:
        shown = [f"{count} {kind}" for kind, count in self.most_common(_KINDS_SHOWN)]
        more = sum(self.values()) - sum(count for _, count in self.most_common(_KINDS_SHOWN))
        return ", ".join([*shown, *([f"{more} others"] if more else [])])


class ImageTree(Protocol):
    """A folder with folders of images, on a disk or on an object store. ``str`` names it in messages."""

    @property
    def name(self) -> str:
        """The last part of its path."""
        ...

    def __truediv__(self, name: str) -> ImageTree:
        """A folder in this folder."""
        ...

    def subfolders(self, passed_over: PassedOver) -> list[str]:
        """Sorted names of the folders in this folder.

        Files beside the folders are passed over: images by this name, others by their kind.

        Raises:
            UserError: an entry is not what it seems.
        """
        ...

    def image_files(self, passed_over: PassedOver) -> list[str]:
        """Sorted paths, relative to the root of the tree, of the images in this folder and in the folders below it.

        Raises:
            UserError: the folder holds no image, or an entry with the ending of an image is no file.
        """
        ...

    def stats_of(self, files: Sequence[str]) -> Stats:
        """What tells whether files below the root of the tree have changed, without reading them."""
        ...

    def addresses_of(self, files: Sequence[str]) -> list[str]:
        """What :func:`study.data.image_files.read_with_digest` can read, of files below the root of the tree."""
        ...


@dataclass(frozen=True)
class LocalTree:
    """A folder on a disk, which other machines may share. Links to folders are followed."""

    root: Path
    """Resolved."""
    below: PurePosixPath = field(default_factory=PurePosixPath)
    """This folder, below the root."""

    def __str__(self) -> str:
        return str(self._folder)

    @property
    def _folder(self) -> Path:
        return self.root / self.below

    @property
    def name(self) -> str:
        """See :class:`ImageTree`."""
        return self._folder.name

    def __truediv__(self, name: str) -> LocalTree:
        return LocalTree(self.root, self.below / name)

    def subfolders(self, passed_over: PassedOver) -> list[str]:
        """See :class:`ImageTree`; a link that leads nowhere is refused: it may stand for a class."""
        names, endings = [], image_endings()
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if kind := left_behind(entry.name, folder=_is_folder(entry)):
                    passed_over[kind] += 1
                elif entry.is_symlink() and not Path(entry.path).exists():
                    raise UserError(f"{entry.path} is a link that leads nowhere: mend or remove it")
                elif entry.is_dir():
                    names.append(entry.name)
                else:
                    ending = ending_of(entry.name)
                    passed_over["images beside the class folders" if ending in endings else kind_of(ending)] += 1
        return sorted(names)

    def image_files(self, passed_over: PassedOver) -> list[str]:
        """See :class:`ImageTree`."""
        endings = image_endings()
        files: list[str] = []
        folder = self._folder
        waiting = [(str(folder), self.below.as_posix(), frozenset((os.path.realpath(folder),)))]
        while waiting:
            place, prefix, above = waiting.pop()
            with os.scandir(place) as entries:
                for entry in entries:
                    name = entry.name
                    if kind := left_behind(name, folder=_is_folder(entry)):
                        passed_over[kind] += 1
                    elif entry.is_dir():
                        real = os.path.realpath(entry.path)
                        if real in above:
                            passed_over["links to a folder above them"] += 1
                        else:
                            waiting.append((entry.path, f"{prefix}/{name}", above | {real}))
                    elif (ending := ending_of(name)) in endings:
                        if not entry.is_file():  # a pipe, which could be read for ever, or a broken link
                            raise UserError(f"cannot read image {entry.path}: it is no file; remove it")
                        files.append(f"{prefix}/{name}")
                    elif not ending and entry.is_file() and _begins_as_image(entry.path):
                        files.append(f"{prefix}/{name}")
                    else:
                        passed_over[kind_of(ending)] += 1
        if not files:
            raise no_image(self)
        return sorted(files)

    def stats_of(self, files: Sequence[str]) -> Stats:
        """See :class:`ImageTree`. Bytes, time of the last change of the content and of the entry in ns, inode; links
        are followed. A file that is gone has zeros: its reading says so.
        """
        found = np.zeros((len(files), 4), np.int64)
        for row, path in enumerate(self.addresses_of(files)):
            try:
                known = os.stat(path)  # noqa: PTH116 (a Path of each of 50,000 files takes longer than the call)
            except OSError:
                continue
            found[row] = known.st_size, known.st_mtime_ns, known.st_ctime_ns, known.st_ino
        return found

    def addresses_of(self, files: Sequence[str]) -> list[str]:
        """See :class:`ImageTree`: absolute paths."""
        return [f"{self.root}/{file}" for file in files]


def no_image(folder: object) -> UserError:
    """The error of a class folder without images."""
    return UserError(f"class folder {folder} holds no image: add some, or remove the folder")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def left_behind(name: str, *, folder: bool) -> str:
    """The kind of what other programs leave in folders; empty for other names."""
    if name.startswith("."):
        return "hidden"
    return name.strip() + "/" * folder if name.strip().lower() in _LEFT_BEHIND else ""


def ending_of(name: str) -> str:
    """The ending of a name, as ``.png``, as ``PurePath.suffix`` but in a tenth of the time."""
    stem, _, ending = name.rpartition(".")
    return f".{ending.lower()}" if stem and ending else ""


def kind_of(ending: str) -> str:
    """The kind of files with this ending, which is none of an image."""
    if not ending:
        return "files without an ending that are no images"
    return f"{ending} files" if ending.isprintable() and len(ending) < 12 else "files with other endings"


def _begins_as_image(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            start = file.read(12)
    except OSError:
        return False
    return start.startswith(_BEGINNINGS) or (start[:4] == b"RIFF" and start[8:] == b"WEBP")
