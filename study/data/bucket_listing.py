"""Images on an object store: one listing tells their names, sizes and e-tags, and no image is read for it."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from results.storage.object_store import RemotePath
from study.data.file_listing import PassedOver, Stats, ending_of, kind_of, left_behind, no_image
from study.data.image_files import image_endings
from study.errors import UserError

_METADATA = ("/latest/", "/metadata/identity/")
"""One of them stands in the error where a machine without keys asks for its role, and nobody answers."""
_AFTER_ALL = "\U0010ffff"


def listed_bucket(place: RemotePath, what: str) -> BucketTree:
    """List what lies below a place.

    Raises:
        UserError: the store does not answer or refuses access, or nothing lies there. ``what`` the place is begins the
            message.
    """
    try:
        objects = place.listed_below()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        no_keys = any(one in reason for one in _METADATA)
        if isinstance(error, PermissionError) or no_keys:
            reason = "there are no credentials" if no_keys else reason
            raise UserError(f"{what} {place.plain} cannot be listed: {reason}: {_who_may(place)}") from None
        raise UserError(f"{what} {place.plain} cannot be listed: {reason}") from None
    if not objects:
        raise UserError(f"{what} {place.plain}: no object lies there: give the place of the images in the bucket")
    return BucketTree(place, objects, sorted(objects))


def _who_may(place: RemotePath) -> str:
    if place.root.startswith("s3://"):
        return (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to keys that may list and read it, or run where the "
            "machine's role may"
        )
    if place.root.startswith("az://"):
        return (
            "set AZURE_STORAGE_ACCOUNT_KEY to a key that may list and read it, or run where the machine's identity may"
        )
    return "set GOOGLE_APPLICATION_CREDENTIALS to a key file that may list and read it, or run where the machine may"


@dataclass(frozen=True, eq=False)
class BucketTree:
    """A folder on an object store, as it was when it was listed: an :class:`~study.data.file_listing.ImageTree`.

    Objects are images by the endings of their names: none is opened.
    """

    place: RemotePath
    """The root."""
    objects: Mapping[str, tuple[int, str]] = field(repr=False)
    """All objects below the root: path -> bytes, and a text that changes with the content."""
    paths: Sequence[str] = field(repr=False)
    """Those of ``objects``, sorted."""
    below: PurePosixPath = field(default_factory=PurePosixPath)
    """This folder, below the root."""

    def __str__(self) -> str:
        return "/".join([self.place.plain, *self.below.parts])

    @property
    def name(self) -> str:
        """See :class:`ImageTree`."""
        return (self.place.key / self.below).name

    def __truediv__(self, name: str) -> BucketTree:
        return BucketTree(self.place, self.objects, self.paths, self.below / name)

    def _below(self) -> Iterator[tuple[str, list[str]]]:
        """The objects in this folder and in the folders below it: path below the root, and its parts from here on.

        Empty objects that stand for folders are left out.
        """
        start = "".join(f"{part}/" for part in self.below.parts)
        first, last = bisect_left(self.paths, start), bisect_left(self.paths, start + _AFTER_ALL)
        for path in self.paths[first:last]:
            if self.objects[path][0] or not self._is_folder(path):
                yield path, path[len(start) :].split("/")

    def _is_folder(self, path: str) -> bool:
        after = bisect_left(self.paths, f"{path}/")
        return after < len(self.paths) and self.paths[after].startswith(f"{path}/")

    def subfolders(self, passed_over: PassedOver) -> list[str]:
        """See :class:`ImageTree`."""
        names: dict[str, str] = {}
        endings = image_endings()
        for _, (name, *deeper) in self._below():
            if deeper and name not in names:
                names[name] = left_behind(name, folder=True)
                if names[name]:
                    passed_over[names[name]] += 1
            elif not deeper:
                ending = ending_of(name)
                beside = "images beside the class folders" if ending in endings else kind_of(ending)
                passed_over[left_behind(name, folder=False) or beside] += 1
        return sorted(name for name, kind in names.items() if not kind)

    def image_files(self, passed_over: PassedOver) -> list[str]:
        """See :class:`ImageTree`."""
        endings = image_endings()
        files: list[str] = []
        left: set[tuple[str, ...]] = set()
        for path, (*folders, name) in self._below():
            kinds = [left_behind(one, folder=True) for one in folders]
            depth = next((depth for depth, kind in enumerate(kinds, 1) if kind), 0)
            if depth:
                if (folder := tuple(folders[:depth])) not in left:
                    left.add(folder)
                    passed_over[kinds[depth - 1]] += 1
            elif kind := left_behind(name, folder=False):
                passed_over[kind] += 1
            elif (ending := ending_of(name)) in endings:
                files.append(path)
            else:
                passed_over[kind_of(ending) if ending else "objects without an ending"] += 1
        if not files:
            raise no_image(self)
        return files

    def stats_of(self, files: Sequence[str]) -> Stats:
        """See :class:`ImageTree`: bytes, 0, and a hash of the e-tag, or of the time where a store has no e-tags."""
        found = np.zeros((len(files), 4), np.int64)
        for row, file in enumerate(files):
            size, version = self.objects[file]
            found[row, 0] = size
            found[row, 2:] = np.frombuffer(hashlib.sha256(version.encode()).digest()[:16], "<i8")
        return found

    def addresses_of(self, files: Sequence[str]) -> list[str]:
        """See :class:`ImageTree`: addresses with the options of the place."""
        return [str(self.place / file) for file in files]
