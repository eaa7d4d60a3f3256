"""Tables: schemas, nulls and lists, other people's readers, damage, leftovers."""

import math
import os

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from results.parts import next_part, part_count, read_table, rows_of, write_part
from results.schemas import SCHEMAS, TableError
from results.storage.atomic import write_atomic

SAMPLES = {pa.string(): "text", pa.int64(): 2**40 + 1, pa.float64(): 0.1, pa.list_(pa.int64()): [3, 1]}
SAMPLES |= {pa.list_(pa.float64()): [0.5, 0.25], pa.bool_(): True}


def full_row(name: str) -> dict[str, object]:
    return {field.name: SAMPLES[field.type] for field in SCHEMAS[name]}


def plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value


def stored(tables, name: str) -> list[dict[str, object]]:
    return [{key: plain(value) for key, value in row.items()} for row in rows_of(read_table(tables, name))]


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_every_column_comes_back_with_and_without_a_value(tmp_path, name):
    full, empty = full_row(name), dict.fromkeys(SCHEMAS[name].names)
    write_part(tmp_path, name, [full, {}, full])
    assert stored(tmp_path, name) == [full, empty, full]
    file = pq.ParquetFile(tmp_path / name / "part-00000.parquet")
    assert file.schema_arrow.names == SCHEMAS[name].names
    write_part(tmp_path, name, [{}])
    assert stored(tmp_path, name) == [empty]


def test_units_are_told(tmp_path):
    for name in ("costs", "operating_points", "front"):
        write_part(tmp_path, name, [])
        schema = pq.ParquetFile(tmp_path / name / "part-00000.parquet").schema_arrow
        for column, unit in (("flops", b"2 x multiply-accumulates per image"), ("energy_joules", b"J per image")):
            assert schema.field(column).metadata == {b"unit": unit}


def test_parts_follow_each_other_and_are_replaced_by_number(tmp_path):
    for part in range(11):
        assert part_count(tmp_path, "epochs") == part
        write_part(tmp_path, "epochs", [{"epoch": 10 * part + n} for n in range(2)], part)
    write_part(tmp_path, "epochs", [{"epoch": 777}], 3)
    epochs = read_table(tmp_path, "epochs")["epoch"].tolist()
    assert epochs == [n for part in range(11) for n in ([777] if part == 3 else [10 * part, 10 * part + 1])]
    assert part_count(tmp_path, "epochs") == 11


def test_nan_and_null_are_both_missing_and_infinity_is_a_value(tmp_path):
    write_part(tmp_path, "epochs", [{"score": math.nan}, {"score": None}, {"score": math.inf}])
    assert [row["score"] for row in stored(tmp_path, "epochs")] == [None, None, math.inf]


def test_integers_survive_a_null_beside_them(tmp_path):
    """What was read is written again, as the front and a search that goes on do."""
    write_part(tmp_path, "operating_points", [{"number": 1, "start_layer": 3, "exits": [1, 2]}, {"number": 2}])
    write_part(tmp_path, "operating_points", list(rows_of(read_table(tmp_path, "operating_points"))), 1)
    again = stored(tmp_path, "operating_points")
    assert again[:2] == again[2:] and again[0]["start_layer"] == 3 and again[0]["exits"] == [1, 2]


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_pandas_and_duckdb_open_a_table_as_it_is(tmp_path, name):
    full = full_row(name)
    write_part(tmp_path, name, [full, {}])
    write_part(tmp_path, name, [full], 1)
    (tmp_path / name / ".part-00002.parquet.x1y2").write_bytes(b"half a par")
    assert len(stored(tmp_path, name)) == 3 and part_count(tmp_path, name) == 2
    by_pandas = pd.read_parquet(tmp_path / name)
    assert list(by_pandas.columns) == SCHEMAS[name].names and len(by_pandas) == 3
    assert {key: plain(value) for key, value in by_pandas.iloc[2].items()} == full
    found = duckdb.sql(f"select * from read_parquet('{tmp_path / name}/*.parquet')").fetchall()
    assert found == [tuple(full.values()), (None,) * len(full), tuple(full.values())]


def test_duckdb_opens_a_table_below_any_path(tmp_path):
    """A path may hold what DuckDB takes for a pattern: a list of files works, as the page on tables shows."""
    tables = tmp_path / "run [1] *" / "tables"
    write_part(tables, "epochs", [{"epoch": 1}])
    write_part(tables, "epochs", [{"epoch": 2}], 1)
    parts = [str(part) for part in sorted((tables / "epochs").glob("*.parquet"))]
    assert duckdb.read_parquet(parts).project("epoch").fetchall() == [(1,), (2,)]


def test_a_column_that_no_schema_knows_is_a_fault_of_the_caller(tmp_path):
    with pytest.raises(AssertionError, match=r"table epochs has no columns \['eporch'\]"):
        write_part(tmp_path, "epochs", [{"epoch": 1}, {"eporch": 1}])
    assert not (tmp_path / "epochs").exists()
    with pytest.raises(pa.ArrowException):
        write_part(tmp_path, "epochs", [{"epoch": "one"}])
    assert not (tmp_path / "epochs").exists()


def test_a_missing_table_is_told_in_one_line(tmp_path):
    (tmp_path / "front").mkdir()
    (tmp_path / "front" / ".part-00000.parquet.tmp").write_bytes(b"leftover")
    for name in ("front", "trials"):
        with pytest.raises(TableError, match=f"{name} holds no table") as error:
            read_table(tmp_path, name)
        assert "\n" not in str(error.value) and part_count(tmp_path, name) == 0


COPIES = [
    "part-00000 (conflicted copy).parquet",
    "part-00000 (LAPTOP's conflicted copy 2026-11-28).parquet",
    "part-00000.sync-conflict-20261128-101112-ABCDEFG.parquet",
    "part-00000 2.parquet",
    "part-00000 (1).parquet",
    "part-00000-LAPTOP.parquet",
    "part-00000_conflict-20261128-101112.parquet",
    "part-00000 - Copy.parquet",
]


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_of_a_part_is_told_beside_the_program_s_own(tmp_path, copy):
    """Rows must not count twice."""
    write_part(tmp_path, "operating_points", [{"number": 1}])
    write_part(tmp_path, "operating_points", [{"number": 2}], 1)
    own = tmp_path / "operating_points" / "part-00000.parquet"
    own.with_name(copy).write_bytes(own.read_bytes())
    for look in (read_table, part_count, next_part):
        with pytest.raises(TableError, match=r"part-00000\.parquet is the program's own part") as error:
            look(tmp_path, "operating_points")
        assert copy in str(error.value) and "\n" not in str(error.value)
    own.with_name(copy).unlink()
    assert read_table(tmp_path, "operating_points")["number"].tolist() == [1, 2]


def test_a_part_of_a_strange_name_alone_is_told(tmp_path):
    write_part(tmp_path, "epochs", [{"epoch": 1}])
    own = tmp_path / "epochs" / "part-00000.parquet"
    own.rename(own.with_name("part-00000 2.parquet"))
    with pytest.raises(TableError, match=r"part-00000 2\.parquet has a name that this program gives to no part"):
        read_table(tmp_path, "epochs")


@pytest.mark.parametrize("part", [7, 123456, "digits", "fashion_mnist-backbones", "12345abcdef0", "012345678901"])
def test_the_names_of_parts_are_the_program_s_own(tmp_path, part):
    write_part(tmp_path, "epochs", [{"epoch": 1}], part)
    assert part_count(tmp_path, "epochs") == 1


@pytest.mark.parametrize("size", [0, 3, 4, 11, 100, -4, -1])
def test_a_cut_part_is_told_by_name_in_one_line(tmp_path, size):
    for part in range(3):
        write_part(tmp_path, "epochs", [{"epoch": part}], part)
    path = tmp_path / "epochs" / "part-00001.parquet"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(TableError, match=r"part-00001\.parquet cannot be read as table epochs") as error:
        read_table(tmp_path, "epochs")
    assert "\n" not in str(error.value)


def test_other_columns_under_the_name_of_a_part_are_told(tmp_path):
    (tmp_path / "epochs").mkdir()
    path = tmp_path / "epochs" / "part-00000.parquet"
    for strange in ({"a": [1]}, {name: ["x"] for name in SCHEMAS["epochs"].names}):
        pq.write_table(pa.table(strange), path)
        with pytest.raises(TableError, match="cannot be read as table epochs") as error:
            read_table(tmp_path, "epochs")
        assert "\n" not in str(error.value)


def test_a_part_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    write_part(tmp_path, "epochs", [{"epoch": 1}])

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_part(tmp_path, "epochs", [{"epoch": 2}])
    assert read_table(tmp_path, "epochs")["epoch"].tolist() == [1]
    assert [path.name for path in (tmp_path / "epochs").iterdir()] == ["part-00000.parquet"]


def test_files_are_readable_by_whom_the_umask_says(tmp_path):
    """A run folder on a shared disk is for colleagues too."""
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_part_without_some_columns_is_told_by_their_names(tmp_path):
    write_part(tmp_path, "front", [{"number": 1}])
    path = tmp_path / "front" / "part-00000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["dvfs", "bitops"]), path)
    with pytest.raises(TableError, match=r"cannot be read as table front: the file or the table lacks bitops, dvfs"):
        read_table(tmp_path, "front")


@pytest.mark.parametrize(
    ("table", "column"), [("front", "test_balanced_accuracy"), ("operating_points", "balanced_accuracy")]
)
def test_parts_of_before_a_column_was_added_are_read_with_null(tmp_path, table, column):
    row = full_row(table)
    write_part(tmp_path, table, [row])
    path = tmp_path / table / "part-00000.parquet"
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    assert stored(tmp_path, table) == [{**row, column: None}]


def test_a_row_of_mixed_kinds_has_pythons_own_values() -> None:
    frame = pd.DataFrame({"number": [3, 4], "share": [0.5, None], "kept": [True, False], "exits": [[1, 2], None]})
    (row,) = rows_of(frame.iloc[0].to_frame().T)
    assert row == {"number": 3, "share": 0.5, "kept": True, "exits": [1, 2]}
    assert [type(value) for value in row.values()] == [int, float, bool, list]
    assert list(rows_of(frame))[1] == {"number": 4, "share": None, "kept": False, "exits": None}
