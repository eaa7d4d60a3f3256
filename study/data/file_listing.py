"""Which files of a folder are images, and what is passed over.

Passed over are hidden names, what archive programs, file managers, network disks and version control leave behind, and
files whose ending is not that of an image that Pillow can decode. A file without an ending is an image if it begins as
one. Links are followed: data tools keep images in a store and link to them.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path, PurePosixPath

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


class PassedOver(Counter[str]):
    """Kind -> how many entries of a folder were passed over."""

    def __str__(self) -> str:
        shown = [f"{count} {kind}" for kind, count in self.most_common(_KINDS_SHOWN)]
        more = sum(self.values()) - sum(count for _, count in self.most_common(_KINDS_SHOWN))
        return ", ".join([*shown, *([f"{more} others"] if more else [])])


def subfolders(folder: Path, passed_over: PassedOver) -> list[str]:
    """Sorted names of the folders in a folder, links to folders included.

    Files beside the folders are passed over: images by this name, others by their kind.

    Raises:
        UserError: a link leads nowhere: it may stand for a class.
    """
    names, endings = [], image_endings()
    with os.scandir(folder) as entries:
        for entry in entries:
            if kind := _left_behind(entry.name, folder=_is_folder(entry)):
                passed_over[kind] += 1
            elif entry.is_symlink() and not Path(entry.path).exists():
                raise UserError(f"{entry.path} is a link that leads nowhere: mend or remove it")
            elif entry.is_dir():
                names.append(entry.name)
            else:
                ending = _ending(entry.name)
                passed_over["images beside the class folders" if ending in endings else _kind_of(ending)] += 1
    return sorted(names)


def image_files(folder: Path, root: Path, passed_over: PassedOver) -> list[str]:
    """Sorted paths, relative to ``root``, of the images in a folder and in the folders below it; at least one.

    Raises:
        UserError: the folder holds no image, or an entry with the ending of an image is no file.
    """
    endings = image_endings()
    files: list[str] = []
    waiting = [(str(folder), folder.relative_to(root).as_posix(), frozenset((os.path.realpath(folder),)))]
    while waiting:
        place, prefix, above = waiting.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                name = entry.name
                if kind := _left_behind(name, folder=_is_folder(entry)):
                    passed_over[kind] += 1
                elif entry.is_dir():
                    real = os.path.realpath(entry.path)
                    if real in above:
                        passed_over["links to a folder above them"] += 1
                    else:
                        waiting.append((entry.path, f"{prefix}/{name}", above | {real}))
                elif (ending := _ending(name)) in endings:
                    if not entry.is_file():  # a pipe, which could be read for ever, or a broken link
                        raise UserError(f"cannot read image {entry.path}: it is no file; remove it")
                    files.append(f"{prefix}/{name}")
                elif not ending and entry.is_file() and _begins_as_image(entry.path):
                    files.append(f"{prefix}/{name}")
                else:
                    passed_over[_kind_of(ending)] += 1
    if not files:
        raise UserError(f"class folder {folder} holds no image: add some, or remove the folder")
    return sorted(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _left_behind(name: str, *, folder: bool) -> str:
    """The kind of what other programs leave in folders; empty for other names."""
    if name.startswith("."):
        return "hidden"
    return name.strip() + "/" * folder if name.strip().lower() in _LEFT_BEHIND else ""


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _kind_of(ending: str) -> str:
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
