"""A user's own images, named by a table: a CSV or parquet file with the columns path, label and perhaps split.

The table may lie on an object store. Paths are relative to its folder and stay below it. Without the column ``split``
the hash of an image's path decides whether the image belongs to the test part. Splits are ``train``, ``val``
(``valid``, ``validation``) and ``test``; with ``train`` and ``val`` alone, ``val`` is the test part.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from results.storage.object_store import RemotePath
from results.storage.paths import Location
from search_spaces.words import short
from study.data.bucket_listing import BucketTree, listed_bucket
from study.data.file_listing import LocalTree
from study.data.file_parts import PART_NAMES, ListedFiles, PartName, divide, listed_files
from study.errors import UserError

_COLUMNS = ("path", "label", "split")
_SHOWN = 3


def image_table(place: Location) -> ListedFiles:
    """List the parts of the images that a table names.

    Raises:
        UserError: the table or a row of it is not as it must be, or files are missing.
    """
    root, table = _root(place), place.plain if isinstance(place, RemotePath) else str(place)
    try:
        content = place.read_bytes()
    except OSError as error:
        raise UserError(f"image table {table} cannot be read: {error.strerror}") from None
    columns = _parquet(table, content) if place.suffix.lower() == ".parquet" else _csv(table, content)
    paths = _checked_paths(table, columns["path"])
    labels = [label.strip() for label in columns["label"]]
    for row, label in enumerate(labels):
        if not label or not label.isprintable() or len(label) > 200:
            raise UserError(f"{_row(table, row)}: {short(label)!r} is no label: expected the name of a class")
    names = sorted(set(labels), key=lambda name: (0, int(name), "") if _is_number(name) else (1, 0, name))
    if len(names) < 2:
        raise UserError(f"image table {table} has {len(names)} class: a classifier needs at least two")
    _refuse_missing(table, root, paths)
    parts = _parts(table, columns.get("split"), len(paths))
    by_part: dict[PartName, dict[str, list[str]]] = {part: {name: [] for name in names} for part in set(parts)}
    for path, label, part in zip(paths, labels, parts, strict=True):
        by_part[part][label].append(path)
    for classes in by_part.values():
        for files in classes.values():
            files.sort()
    notes: list[str] = []
    if "split" not in columns:
        return listed_files(root, divide(by_part["train"]), notes, divided=True, named_by_path=False)
    if "test" not in by_part and "validation" in by_part:
        by_part["test"] = by_part.pop("validation")
        notes.append("val is the test part, and the validation split is cut from train")
    for part in ("train", "test"):
        if part not in by_part:
            raise UserError(f"image table {table}: no row has the split {part}: expected train, test and perhaps val")
    ordered: dict[PartName, dict[str, list[str]]] = {
        part: by_part[part] for part in ("train", "validation", "test") if part in by_part
    }
    for part, classes in ordered.items():
        if empty := [name for name, files in classes.items() if not files]:
            raise UserError(f"image table {table}: class {short(empty[0])!r} has no image in the split {part}")
    return listed_files(root, ordered, notes, named_by_path=False)


def _root(place: Location) -> LocalTree | BucketTree:
    """The folder of the table."""
    if isinstance(place, RemotePath):
        return listed_bucket(place.parent, "folder of the image table")
    if not place.is_file():
        raise UserError(f"image table {place} {'is no file' if place.exists() else 'is not there'}: give a CSV file")
    return LocalTree(place.parent.resolve())


def _csv(table: str, content: bytes) -> dict[str, list[str]]:
    """The columns of a CSV file."""
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeError, csv.Error) as error:
        raise UserError(f"image table {table} cannot be read as CSV in UTF-8: {' '.join(str(error).split())}") from None
    header, *rows = [row for row in rows if row] or [[]]
    names = [name.strip().lower() for name in header]
    wanted = _known_columns(table, names)
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise UserError(f"{_row(table, number)} has {len(row)} values, but the table has {len(names)} columns")
    return {name: [row[names.index(name)] for row in rows] for name in wanted}


def _parquet(table: str, content: bytes) -> dict[str, list[str]]:
    """The columns of a parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        source = pa.BufferReader(content)
        wanted = _known_columns(table, parquet.read_schema(source).names)
        source.seek(0)
        read = parquet.read_table(source, columns=wanted)
        return {name: ["" if v is None else str(v) for v in read[name].to_pylist()] for name in wanted}
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"image table {table} cannot be read as parquet: {short(error)}") from None


def _known_columns(table: str, names: Sequence[str]) -> list[str]:
    if not {"path", "label"} <= set(names) or len(set(names)) < len(names):
        raise UserError(
            f"image table {table} has the columns {short(', '.join(names))!r}: expected path, label and perhaps split, "
            "separated by commas"
        )
    return [name for name in _COLUMNS if name in names]


def _checked_paths(table: str, raw: Iterable[str]) -> list[str]:
    """Paths below the folder of the table, each once."""
    seen: dict[str, int] = {}
    for row, text in enumerate(raw):
        path = PurePosixPath(text.strip())
        if not path.parts or not text.isprintable() or path.is_absolute() or ".." in path.parts:
            raise UserError(
                f"{_row(table, row)}: {short(text)!r} is no path below the folder of the table: expected one as "
                "photos/1.jpg"
            )
        if str(path) in seen:
            raise UserError(f"{_row(table, row)}: {short(path)!r} stands in row {seen[str(path)] + 1} already")
        seen[str(path)] = row
    if not seen:
        raise UserError(f"image table {table} has no rows: expected one for each image")
    return list(seen)


def _refuse_missing(table: str, root: LocalTree | BucketTree, paths: Sequence[str]) -> None:
    if isinstance(root, BucketTree):
        missing = [path for path in paths if path not in root.objects]
    else:
        missing = [path for path in paths if not (root.root / path).is_file()]
    if missing:
        shown = ", ".join(short(path) for path in missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        slashes = "; paths are written with /" if "\\" in missing[0] else ""
        raise UserError(
            f"image table {table}: {len(missing)} of {len(paths)} images are not in {root}: {shown}{more}{slashes}"
        )


def _parts(table: str, splits: Sequence[str] | None, rows: int) -> list[PartName]:
    if splits is None:
        return ["train"] * rows
    found: list[PartName] = []
    for row, text in enumerate(splits):
        part = PART_NAMES.get(text.strip().lower())
        if part is None:
            raise UserError(f"{_row(table, row)}: {short(text)!r} is no split: expected train, val or test")
        found.append(part)
    return found


def _row(table: str, row: int) -> str:
    return f"image table {table}, row {row + 1}"


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 10
