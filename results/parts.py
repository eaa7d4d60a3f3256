"""The tables of a study: explicit schemas, one folder of parquet files each.

Units stand in the column names, or in the field's metadata (``unit``). Costs are means per image; accuracies are shares
from results.schemas import SCHEMAS
from results.schemas import TableError
from 0 to 1. Every row with a metric says on which ``split`` it was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from results.schemas import SCHEMAS, TableError
from results.storage.atomic import write_atomic
from results.storage.paths import Location, is_no_file


def write_part(tables: Location, name: str, rows: Sequence[Mapping[str, Any]], part: int | str = 0) -> None:
    """Write rows as one part of a table, atomically; a part of the same number or name is replaced.

    Args:
        tables: the run folder's ``tables``.
        name: a key of ``SCHEMAS``.
        rows: columns left out are null; a column that the schema does not know is a fault of the caller.
        part: number or name of the part.
    """
    schema = SCHEMAS[name]
    unknown = {key for row in rows for key in row} - set(schema.names)
    assert not unknown, f"table {name} has no columns {sorted(unknown)}"
    buffer = BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), buffer, write_page_checksum=True)
    label = f"{part:05d}" if isinstance(part, int) else part
    write_atomic(tables / name / f"part-{label}.parquet", buffer.getvalue())


def empty_table(name: str) -> pd.DataFrame:
    """A table without rows."""
    table: pd.DataFrame = SCHEMAS[name].empty_table().to_pandas()
    return table


def part_count(tables: Location, name: str) -> int:
    """Number of parts that a table has."""
    return len(_parts(tables, name))


def next_part(tables: Location, name: str) -> int:
    """A number that no part of a table has yet, behind all others."""
    return max((int(part.stem[5:]) + 1 for part in _parts(tables, name)), default=0)


def read_table(tables: Location, name: str) -> pd.DataFrame:
    """A whole table.

    Raises:
        TableError: it was not written yet, or a part is damaged.
    """
    parts = _parts(tables, name)
    if not parts:
        raise TableError(f"{tables / name} holds no table: the study has not come that far")
    table: pd.DataFrame = pd.concat([_read_part(part, name) for part in parts], ignore_index=True)
    return table


def part_of(tables: Location, name: str, columns: Sequence[str], rows: Sequence[tuple[object, ...]]) -> str | None:
    """The name of the part that holds just these rows, as :func:`write_part` takes it to replace the part; None where
    they are no whole part.

    Args:
        tables, name: as of :func:`write_part`.
        columns: that tell rows apart.
        rows: their values, in the order of the part.

    Raises:
        TableError: a part is damaged.
    """
    for part in _parts(tables, name):
        if list(_read_part(part, name)[list(columns)].itertuples(index=False, name=None)) == list(rows):
            return part.stem.removeprefix("part-")
    return None


def data_names(tables: Location, name: str) -> list[str]:
    """The data sets that a table has rows of; none where an earlier version wrote it, or nobody yet."""
    return sorted(read_table(tables, name)["data"].dropna().unique()) if part_count(tables, name) else []


def of_data(table: pd.DataFrame, data: str | None) -> pd.DataFrame:
    """The rows of one data set; None: all."""
    return table if data is None else table[table["data"] == data].reset_index(drop=True)


def damaged_parts(tables: Location) -> Iterator[tuple[Location, TableError]]:
    """The parts of all tables that cannot be read, and why."""
    for name in SCHEMAS:
        for part in _parts(tables, name):
            try:
                _read_part(part, name)
            except TableError as error:
                yield part, error


def _parts(tables: Location, name: str) -> list[Location]:
    return sorted((tables / name).glob("part-*.parquet"))


def _read_part(part: Location, name: str) -> pd.DataFrame:
    if is_no_file(part):
        raise TableError(f"{part} cannot be read as table {name}: it is no file")
    try:
        stored = pq.ParquetFile(BytesIO(part.read_bytes()), page_checksum_verification=True).read()
        frame: pd.DataFrame = _completed(stored, SCHEMAS[name]).cast(SCHEMAS[name]).to_pandas()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TableError(f"{part} cannot be read as table {name}: {str(error).splitlines()[0]}") from None
    return frame


def _completed(table: Any, schema: Any) -> Any:
    """A part of an earlier version with nulls for the columns that it did not know."""
    if not set(table.column_names) < set(schema.names):
        return table
    missing = [field for field in schema if field.name not in table.column_names]
    for field in missing:
        table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(schema.names)


def rows_of(frame: pd.DataFrame) -> Iterable[dict[str, Any]]:
    """The rows of a table with None for what is missing."""
    for row in frame.to_dict("records"):
        yield {str(key): None if _is_missing(value) else value for key, value in row.items()}


def _is_missing(value: Any) -> bool:
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))
