"""Tables of images that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.corpus import CODE, TRAIN, Case, Workplace, each

GOOD = [(f"photos/{number:02}.png", ("cat", "dog")[number % 2]) for number in range(20)]
HERE = f"{TRAIN} --data image_folder --image-size 32 --no-save"


def text_of(rows: Sequence[Sequence[str]], header: str = "path,label") -> str:
    return "\n".join([header, *(",".join(row) for row in rows)]) + "\n"


def bad(id: str, why: str, content: str | bytes, *told: str, name: str = "table.csv", command: str = HERE) -> Case:
    """Twenty good images, and a table."""

    def arrange(place: Workplace) -> None:
        place.images("photos", count=20)
        place.write(name, content)

    return Case(id, why, arrange, f"{command} --table {name}" if "--table" not in command else command, (name, *told))


def first(path: str = "photos/00.png", label: str = "cat") -> str:
    return text_of([(path, label), *GOOD[1:]])


def splits(*names: str) -> str:
    return text_of([(*row, names[n % len(names)]) for n, row in enumerate(GOOD)], "path,label,split")


RUN = "run own_images --set data.folder=null"
CASES = [
    bad("empty", "an empty file", "", "columns", "path, label"),
    bad("header-only", "no rows", "path,label\n", "no rows"),
    bad("semicolons", "another separator", first().replace(",", ";"), "columns 'path;label'", "commas"),
    bad("other-columns", "other names", text_of(GOOD, "file,class"), "columns 'file, class'"),
    bad("twice-column", "a column twice", text_of(GOOD, "path,path"), "columns"),
    bad("short-row", "a value too few", text_of([GOOD[0], ("photos/01.png",), *GOOD[2:]]), "row 2", "1 values"),
    bad("long-row", "a value too many", text_of([(*GOOD[0], "x"), *GOOD[1:]]), "row 1", "3 values"),
    bad("absolute", "an absolute path", first("/etc/passwd"), "row 1", "/etc/passwd", "no path below"),
    bad("above", "a path out of the folder", first("../secret.png"), "row 1", "no path below"),
    bad("above-inside", "the same, hidden", first("photos/../../secret.png"), "row 1", "no path below"),
    bad("no-path", "no path", first(""), "row 1", "no path below"),
    bad("doubled", "an image twice", first("photos/01.png"), "row 2", "photos/01.png", "row 1 already"),
    bad("doubled-dot", "the same in other words", first("./photos/01.png"), "row 2", "already"),
    bad("missing", "an image that is not there", first("photos/99.png"), "1 of 20 images", "photos/99.png"),
    bad("backslash", "paths of another system", first(r"photos\\00.png"), "1 of 20 images", "written with /"),
    bad("address", "an address", first("https://host/00.png"), "1 of 20 images"),
    bad("folder-row", "a folder for an image", first("photos"), "1 of 20 images"),
    bad("no-label", "no label", first(label=""), "row 1", "no label"),
    bad("long-label", "a label without end", first(label="x" * 500), "row 1", "no label"),
    bad("one-class", "one class", text_of([(path, "cat") for path, _ in GOOD]), "1 class"),
    Case(
        "one-image",
        "a class with one image",
        lambda place: (place.images("photos", count=20), place.write("table.csv", first(label="eel"))),
        f"{HERE} --table table.csv",
        ("'eel' has 1 image",),
    ),
    bad("split-word", "no split", splits("train", "dev"), "row 2", "'dev' is no split"),
    bad("no-test", "training alone", splits("train"), "split test"),
    bad("no-train", "no training", splits("val", "test"), "split train"),
    bad("class-in-test", "a class is in one split", splits("train", "test"), "class 'dog'", "split train"),
    bad("no-text", "bytes that are no text", b"path,label\n\xff\xfe,cat\n", "UTF-8"),
    bad("quote", "a quote that does not end", 'path,label\n"photos/00.png,cat\n', "CSV"),
    bad("nul", "a zero", b"path,label\nphotos/\0.png,cat\n", "table.csv"),
    bad("pickle", "a pickle", CODE, "table.csv"),
    bad("no-parquet", "no parquet file", "path,label\n", "parquet", name="table.parquet"),
    bad("not-there", "no table", "", "is not there", name="x.csv", command=f"{HERE} --table y/x.csv"),
    Case(
        "folder-and-table",
        "both",
        lambda place: place.images("pets/cat", "pets/dog"),
        f"{HERE} --table t.csv --folder pets",
        ("folder or table, not both",),
    ),
    Case(
        "table-of-digits",
        "a table for a published data set",
        lambda place: place.write("t.csv", text_of(GOOD)),
        f"{TRAIN} --data digits --table t.csv",
        ("table is for the data set image_folder only",),
    ),
    bad("study", "in a study", first("../x.png"), "no path below", command=RUN),
    bad("study-dry", "the same, asked before", splits("train"), "split test", command=f"{RUN} --dry-run"),
]


@each(CASES)
def test_bad_tables_are_refused(case: Case, workplace: Workplace, capfd: pytest.CaptureFixture[str]) -> None:
    workplace.refuse(case, capfd)
