"""Reading and writing the tables of a study: each is a folder of parquet files, its *parts*."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from results.schemas import ADDED, SCHEMAS, TableError
from results.storage.atomic import write_atomic
from results.storage.paths import Location, is_no_file

_OWN_PART = re.compile(r"part-(?!\d{5}[_-])[A-Za-z0-9_-]+\.parquet")
"""The names that :func:`write_part` gives. A synchronised folder may hold ``part-00000 (conflicted copy).parquet``,
``part-00000-LAPTOP.parquet`` or the like beside them."""


def write_part(tables: Location, name: str, rows: Sequence[Mapping[str, Any]], part: int | str = 0) -> None:
    """Write rows as one part of a table, atomically; a part of the same number or name is replaced.

    Args:
        tables: the run folder's ``tables``.
        name: a key of ``SCHEMAS``.
        rows: columns left out are null; a column that the schema does not know is a fault of the caller.
        part: number of the part; or its name, of letters, digits, ``_`` and ``-``.
    """
    schema = SCHEMAS[name]
    unknown = {key for row in rows for key in row} - set(schema.names)
    assert not unknown, f"table {name} has no columns {sorted(unknown)}"
    buffer = BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), buffer, write_page_checksum=True)
    label = f"{part:05d}" if isinstance(part, int) else part
    path = tables / name / f"part-{label}.parquet"
    assert _OWN_PART.fullmatch(path.name), f"{path.name} would not be read as a part"
    write_atomic(path, buffer.getvalue())


def part_count(tables: Location, name: str) -> int:
    """Number of parts that a table has.

    Raises:
        TableError: the folder of the table holds a copy of a part.
    """
    return len(_parts(tables, name))


def next_part(tables: Location, name: str) -> int:
    """A number above the numbers of all parts of a table."""
    return max((int(part.stem[5:]) + 1 for part in _parts(tables, name)), default=0)


def read_table(tables: Location, name: str) -> pd.DataFrame:
    """A whole table.

    Raises:
        TableError: the table was not written yet, a part is damaged, or the folder holds a copy of a part.
    """
    table = read_or_empty(tables, name)
    if table.empty and not part_count(tables, name):
        raise TableError(f"{tables / name} holds no table: the study has not written the table yet")
    return table


def read_or_empty(tables: Location, name: str) -> pd.DataFrame:
    """A whole table; a table without rows where the study has not written the table yet.

    Raises:
        TableError: a part is damaged, or the folder holds a copy of a part.
    """
    parts = [_read_part(part, name) for part in _parts(tables, name)]
    table: pd.DataFrame = pa.concat_tables([SCHEMAS[name].empty_table(), *parts]).to_pandas()
    return table


def part_of(tables: Location, name: str, columns: Sequence[str], rows: Sequence[tuple[object, ...]]) -> str | None:
    """The name of the part that holds exactly these rows, to replace the part by :func:`write_part`; None where
    they are no whole part.

    Args:
        tables, name: as of :func:`write_part`.
        columns: that tell rows apart.
        rows: their values, in the order of the part.

    Raises:
        TableError: a part is damaged.
    """
    for part in _parts(tables, name):
        stored = _read_part(part, name).select(columns).to_pandas()
        if list(stored.itertuples(index=False, name=None)) == list(rows):
            return part.stem.removeprefix("part-")
    return None


def data_names(tables: Location, name: str) -> list[str]:
    """The data sets that a table has rows of; none where the table was not written yet."""
    return sorted(read_or_empty(tables, name)["data"].unique())


def of_data(table: pd.DataFrame, data: str | None) -> pd.DataFrame:
    """The rows of one data set; all rows where ``data`` is None."""
    return table if data is None else table[table["data"] == data].reset_index(drop=True)


def damaged_parts(tables: Location) -> Iterator[tuple[Location, TableError]]:
    """The parts of all tables that cannot be read, each with the reason."""
    for name in SCHEMAS:
        for part in _parts(tables, name):
            try:
                _read_part(part, name)
            except TableError as error:
                yield part, error


def _parts(tables: Location, name: str) -> list[Location]:
    parts: list[Location] = sorted((tables / name).glob("part-*.parquet"), key=str)
    own = [part for part in parts if _OWN_PART.fullmatch(part.name)]
    for part in parts:
        if part not in own:
            raise TableError(f"{part} {_copy_of(part, own)}")
    return own


def _copy_of(part: Location, own: Sequence[Location]) -> str:
    """For the message about a file that :func:`write_part` did not write: what the file is, and what to do."""
    original = max((one.name for one in own if part.stem.startswith(one.stem)), key=len, default=None)
    if original is None:
        return "has a name that this program gives to no part: give the file its old name back, or remove it"
    return (
        f"is a copy of {original}, perhaps of a sync tool; {original} is the program's own part: keep the one of the "
        "two that is right under that name, and remove the other"
    )


def _read_part(part: Location, name: str) -> pa.Table:
    if is_no_file(part):
        raise TableError(f"{part} cannot be read as table {name}: it is no file")
    try:
        stored = pq.ParquetFile(BytesIO(part.read_bytes()), page_checksum_verification=True).read()
        for column in (name for name in SCHEMAS[name].names if name in ADDED and name not in stored.column_names):
            stored = stored.append_column(column, pa.nulls(len(stored), pa.float64()))
        if other := sorted(set(stored.column_names) ^ set(SCHEMAS[name].names)):
            raise ValueError(f"the file or the table lacks {', '.join(other)}")
        return stored.select(SCHEMAS[name].names).cast(SCHEMAS[name])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TableError(f"{part} cannot be read as table {name}: {str(error).splitlines()[0]}") from None


def rows_of(frame: pd.DataFrame) -> Iterable[dict[str, Any]]:
    """The rows of a table, of Python's own values; a missing value is None."""
    names = [str(name) for name in frame.columns]
    columns = (
        [
            None if missing else value.item() if isinstance(value, np.generic) else value
            for value, missing in zip(column.tolist(), column.isna(), strict=True)
        ]
        for _, column in frame.items()
    )
    for row in zip(*columns, strict=True):
        yield dict(zip(names, row, strict=True))
