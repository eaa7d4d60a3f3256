"""Image files, listed by class and part. No file has been opened yet."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Literal, TypeAlias

import numpy as np

from study.data.decoding import DecodedFiles, DecodingSettings, decode
from study.data.file_index import FileIndex
from study.data.file_listing import ImageTree, Stats
from study.data.image_cache import CachedImages, ImageCache
from study.data.image_modes import WHITE_LEVEL
from study.data.settings import DataSettings, ReadPart
from study.data.splits import TEST_SHARE, Indices
from study.errors import UserError

_CACHE_FORMAT = 1  # to be raised when the same source gives other pixels
PartName: TypeAlias = Literal["train", "validation", "test"]
PART_NAMES: Mapping[str, PartName] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""What users call the parts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FilePart:
    """The training part, a validation split of the user's own, or the test part."""

    root: ImageTree
    files: tuple[str, ...]
    """Paths below ``root``, which is the root of the tree."""
    labels: Indices
    """``[N]``."""
    class_names: tuple[str, ...]
    test_sizes: Indices | None = None
    """``[C]``: images of each class that belong to the test part, where the program divided training and test."""
    named_by_path: bool = True
    """Whether the path of a file names its class; otherwise the digest covers the class beside the path."""

    def read(self, indices: Indices, settings: DataSettings) -> ReadPart:
        """Pixels of some of the images, in the size, channels and white level of resolved settings.

        The source is the sha256 over each file's path and bytes, and over the rules of :mod:`study.data.image_modes`
        that changed its pixels.

        Raises:
            UnreadableImagesError: it names the files that are damaged or no images.
        """
        assert settings.image_size is not None and settings.channels is not None
        how = DecodingSettings(
            image_size=settings.image_size,
            channels=settings.channels,
            white_level=settings.white_level or WHITE_LEVEL,
            max_pixels=settings.max_pixels,
        )
        names = [self.files[index] for index in indices.tolist()]
        shape = (len(names), how.channels, how.image_size, how.image_size)
        cache = ImageCache.of_machine()
        if cache is None:
            images = np.empty(shape, np.uint8)
            found = decode(self.root.addresses_of(names), images, how, mapped=None)
            return ReadPart(images, self._source(indices, found), int(found.deepest.max(initial=0)))
        stats = self.root.stats_of(names)
        index = FileIndex.read(cache.folder, self.root, how.white_level)
        if known := index.find(names, stats):
            source = self._source(indices, known)
            name = _entry_name(source, how)
            if entry := cache.find(name, shape):
                return _read_part(name, entry, source, known)
        return self._decoded(cache, index, indices, stats, how)

    def _decoded(
        self, cache: ImageCache, index: FileIndex, indices: Indices, stats: Stats, how: DecodingSettings
    ) -> ReadPart:
        """Decode files into the cache, or into memory where the cache has no room."""
        names = [self.files[number] for number in indices.tolist()]
        paths = self.root.addresses_of(names)
        shape = (len(names), how.channels, how.image_size, how.image_size)
        draft = cache.draft(shape)
        images = draft.images if draft else np.empty(shape, np.uint8)
        try:
            found = decode(paths, images, how, mapped=draft.file if draft else None)
        except BaseException:
            if draft:
                cache.discard(draft)
            raise
        source = self._source(indices, found)
        with suppress(OSError):  # a cache that cannot be written saves nothing
            index.write(cache.folder, self.root, how.white_level, names=names, stats=stats, found=found)
        if draft:
            with suppress(OSError, ValueError):
                name = _entry_name(source, how)
                return _read_part(name, cache.publish(draft, name), source, found)
        return ReadPart(images, source, int(found.deepest.max(initial=0)))

    def _source(self, indices: Indices, found: DecodedFiles) -> str:
        names = map(self._name, indices.tolist())
        return hashlib.sha256(b"".join(chain.from_iterable(zip(names, repeat(b"\0"), found.digests)))).hexdigest()

    def _name(self, index: int) -> bytes:
        file = self.files[index].encode(errors="surrogateescape")
        if self.named_by_path:
            return file
        name: str = self.class_names[self.labels[index]]
        return name.encode() + b"\0" + file


def _entry_name(source: str, how: DecodingSettings) -> str:
    """The name of an entry of the cache: the source covers names, bytes and the rules that changed pixels."""
    parts = [_CACHE_FORMAT, source, how.image_size, how.channels]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _read_part(name: str, entry: CachedImages, source: str, found: DecodedFiles) -> ReadPart:
    deepest = int(found.deepest.max(initial=0))
    return ReadPart(entry.images, source, deepest, entry=name, mean=entry.mean, std=entry.std)


@dataclass(frozen=True, kw_only=True, eq=False)
class ListedFiles:
    """All parts of a data set of files."""

    parts: Mapping[PartName, FilePart]
    """``train`` and ``test``; ``validation`` where the user has divided the images so."""
    notes: tuple[str, ...]
    """What a user should know: which folder is which part, and what was passed over."""


def listed_files(
    root: ImageTree,
    by_class: Mapping[PartName, Mapping[str, Sequence[str]]],
    notes: Sequence[str],
    *,
    divided: bool = False,
    named_by_path: bool = True,
) -> ListedFiles:
    """The parts of a data set.

    Args:
        root: all paths are below it.
        by_class: part -> class -> paths; the classes of all parts are the same, in the same order.
        notes: of :class:`ListedFiles`.
        divided: whether :func:`divide` made training and test part.
        named_by_path: of :class:`FilePart`.
    """
    test_sizes = np.array([len(of_class) for of_class in by_class["test"].values()], dtype=np.int64)
    return ListedFiles(
        parts={
            part: FilePart(
                root=root,
                files=tuple(file for of_class in classes.values() for file in of_class),
                labels=np.repeat(np.arange(len(classes)), [len(one) for one in classes.values()]).astype(np.int64),
                class_names=tuple(classes),
                test_sizes=test_sizes if divided else None,
                named_by_path=named_by_path,
            )
            for part, classes in by_class.items()
        },
        notes=tuple(notes),
    )


def divide(by_class: Mapping[str, Sequence[str]]) -> dict[PartName, dict[str, list[str]]]:
    """Divide files that have no test part into ``train`` and ``test``, sorted.

    A file belongs to the test part if its hash, as a number from 0 to 1, is below 1/5. Each part has an image of each
    class: the test part at least the one with the lowest hash, the training part the one with the highest. The test
    part is the same for every seed and on every machine, and no image changes its part when another one is added.

    Raises:
        UserError: a class has one image only.
    """
    divided: dict[PartName, dict[str, list[str]]] = {"train": {}, "test": {}}
    for name, files in by_class.items():
        if len(files) < 2:
            raise UserError(f"class {name!r} has 1 image, too few for a training and a test part: add some")
        by_hash = sorted((_hash(file), file) for file in files)
        below = sum(number < TEST_SHARE for number, _ in by_hash)
        count = min(max(1, below), len(files) - 1)
        divided["test"][name] = sorted(file for _, file in by_hash[:count])
        divided["train"][name] = sorted(file for _, file in by_hash[count:])
    return divided


def _hash(file: str) -> float:
    """The sha256 of a path below the root, as a number from 0 to 1."""
    return int.from_bytes(hashlib.sha256(file.encode(errors="surrogateescape")).digest()[:8]) / 2**64
