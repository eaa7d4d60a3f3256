"""Folders that are published as a whole, by a manifest.

A folder is published by its ``manifest.json``, written last by an atomic rename. Every other file carries a part of its
hash in its name, so that a new generation never overwrites the files of the old one: killed anywhere, the folder
still holds the last whole generation.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from results.storage.atomic import is_draft, sync_folder, write_atomic
from results.storage.paths import Location, as_local_file, is_no_file
from results.storage.paths import set_aside as moved_aside
from study.errors import UserError
from study.storage.strict_json import dumps, parse_json

MANIFEST = "manifest.json"
T = TypeVar("T")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class DamagedError(UserError):
    """A published folder whose files do not match its manifest."""


def safe_name(name: str, what: str) -> str:
    """The name, if it is a file name on every file system and does not lead out of its folder.

    Raises:
        UserError: the name is not.
    """
    if not _SAFE_NAME.fullmatch(name):
        raise UserError(f"{what} {name!r} cannot be a folder name: use letters, digits, '_', '-' and '.'")
    return name


def check_writable(folder: Location) -> None:
    """Refuse a folder that cannot be created or written. No local file is written; a bucket is tried with a marker.

    Raises:
        UserError: the folder cannot be created or written.
    """
    if not isinstance(folder, Path):
        marker = folder / f".writable-{os.getpid()}"
        try:
            write_atomic(marker, b"")
            marker.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror or error}") from None
        return
    nearest = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    effective = os.access in os.supports_effective_ids  # the rights that the writing will have
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK, effective_ids=effective)):
        raise UserError(f"{folder} cannot be written: {nearest} is not a folder that you may write in")


def publish(folder: Location, files: Mapping[str, bytes]) -> None:
    """Replace the published content of a folder by ``files`` (name -> content).

    The files of the replaced generation are removed. Files of another writer that are not published yet stay.
    """
    before = _stored_names(folder)
    entries = {}
    for name, data in files.items():
        digest = hashlib.sha256(data).hexdigest()
        stem, dot, suffix = name.partition(".")
        stored = f"{stem}-{digest[:12]}{dot}{suffix}"
        write_atomic(folder / stored, data, sync=False)
        entries[name] = {"file": stored, "bytes": len(data), "sha256": digest}
    if entries:
        sync_folder(folder)  # a manifest that survives a power failure names only files that survive it
    manifest = {"files": entries, "sha256": content_hash(entries, 64)}
    write_atomic(folder / MANIFEST, dumps(manifest, indent=1).encode())
    for stored in before - {str(entry["file"]) for entry in entries.values()}:
        (folder / stored).unlink(missing_ok=True)


def sweep(folder: Location) -> None:
    """Remove the files that killed writers left: all files of a published folder that its manifest does not name.

    No other process may write in the folder meanwhile.
    """
    current = {MANIFEST, *_stored_names(folder)}
    for path in folder.glob("*"):
        if path.name not in current and path.is_file():
            path.unlink(missing_ok=True)


def sweep_drafts(folder: Location) -> None:
    """Remove the drafts of atomic writes that were killed, from a folder of single files."""
    for path in folder.glob("*"):
        if is_draft(path.name):
            path.unlink(missing_ok=True)


def _stored_names(folder: Location) -> set[str]:
    """The files that the manifest names; none where the manifest is missing or damaged."""
    try:
        manifest = _manifest_text(folder)
        return set() if manifest is None else {str(entry["file"]) for entry in _entries(folder, manifest).values()}
    except DamagedError:
        return set()


@dataclass(frozen=True)
class Published:
    """The published content of a folder."""

    files: Mapping[str, bytes]
    digests: Mapping[str, str]
    """sha256 of every published file, also of the files that were not read."""
    paths: Mapping[str, Location]


def read_published(folder: Location, names: Collection[str] | None = None) -> Published | None:
    """The published content of a folder; None where nothing was published.

    Args:
        folder: that :func:`publish` wrote.
        names: the files to read and verify in full; for all other files only the size is compared. None: all files.

    Raises:
        DamagedError: there is a manifest, but the files do not match it.
    """
    manifest = _manifest_text(folder)
    while manifest is not None:
        try:
            return _read_generation(folder, manifest, names)
        except DamagedError:
            newer = _manifest_text(folder)
            if newer == manifest:
                raise
            manifest = newer  # a writer published the next generation meanwhile
    return None


def published_files(folder: Location) -> Mapping[str, Path] | None:
    """The published files of a folder (of one on an object store: local copies), verified in full but not held in
    memory; None where nothing was published.

    Raises:
        DamagedError: there is a manifest, but the files do not match it.
    """
    published = read_published(folder, names=())
    if published is None:
        return None
    paths = {}
    for name, path in published.paths.items():
        try:
            paths[name] = as_local_file(path)
            with paths[name].open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise DamagedError(f"{path} is missing, but its manifest names it") from None
        if digest != published.digests[name]:
            raise DamagedError(f"{path} does not match its manifest")
    return paths


def _manifest_text(folder: Location) -> bytes | None:
    path = folder / MANIFEST
    if is_no_file(path):
        raise DamagedError(f"{path} cannot be read: it is no file")
    return path.read_bytes() if path.exists() else None


def _entries(folder: Location, manifest: bytes) -> dict[str, Any]:
    try:
        parsed = parse_json(manifest)
        entries = parsed["files"]
        if content_hash(entries, 64) != parsed["sha256"]:
            raise ValueError
        for entry in entries.values():
            safe_name(entry["file"], "its file")
            if not isinstance(entry["bytes"], int) or not isinstance(entry["sha256"], str):
                raise ValueError
        return dict(entries)
    except UserError as error:
        raise DamagedError(f"{folder / MANIFEST} cannot be read: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedError(f"{folder / MANIFEST} cannot be read") from None


def _read_generation(folder: Location, manifest: bytes, names: Collection[str] | None) -> Published:
    entries, files = _entries(folder, manifest), {}
    paths = {name: folder / entry["file"] for name, entry in entries.items()}
    for name, path in paths.items():
        entry = entries[name]
        try:
            whole = path.stat().st_size == entry["bytes"] and not is_no_file(path)
            if whole and (names is None or name in names):
                files[name] = path.read_bytes()
                whole = hashlib.sha256(files[name]).hexdigest() == entry["sha256"]
        except FileNotFoundError:
            raise DamagedError(f"{path} is missing, but its manifest names it") from None
        if not whole:
            raise DamagedError(f"{path} does not match its manifest")
    return Published(files, {name: entry["sha256"] for name, entry in entries.items()}, paths)


def set_aside(path: Location, reason: str) -> None:
    """Rename a damaged file or folder to ``<name>.damaged`` and print a warning; its content is computed again."""
    aside = moved_aside(path)
    print(f"warning: {reason}; set aside as {aside}; the content will be computed again", file=sys.stderr)


def read_or_set_aside(folder: Location, read: Callable[[], T]) -> T | None:
    """What ``read`` finds in a folder; None where the folder is damaged, which is then set aside."""
    try:
        return read()
    except DamagedError as error:
        set_aside(folder, str(error))
        return None


def content_hash(value: object, length: int = 12) -> str:
    """Hex digest of a value that JSON can hold, the same on every platform."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
