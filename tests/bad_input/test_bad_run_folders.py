"""Run folders whose files are damaged, or are not what their names say."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpus import Case, Workplace, cut, each

Change = Callable[[Workplace], object]

STATUS, FRONT, EXACT = "status run", "front run", "front run --exact"


def bad(id: str, why: str, change: Change, *told: str, command: str = EXACT) -> Case:
    """A run folder that is good but for a change."""

    def arrange(place: Workplace) -> None:
        place.take("run")
        change(place)

    return Case(id, why, arrange, command, told)


def flipped_page(content: bytes) -> bytes:
    """Another byte at the end of the first column: in its values, which a checksum protects, not in a page's header."""
    column = pq.ParquetFile(BytesIO(content)).metadata.row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    place = start + column.total_compressed_size - 1
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


def study(content: str | bytes) -> Change:
    return lambda place: place.write("run/study.yaml", content)


def replaced(old: str, new: str) -> Change:
    def change(place: Workplace) -> None:
        text = (place / "run/study.yaml").read_text()
        assert old in text
        place.write("run/study.yaml", text.replace(old, new))

    return change


YAML = "run/study.yaml"

STUDIES = [
    bad("empty", "nothing in it", study(""), YAML, "cannot be read", command=STATUS),
    bad("truncated", "cut", study("study:\n  name: [sm"), YAML, "cannot be read", command=STATUS),
    bad("exact-truncated", "cut", study("study:\n  name: [sm"), YAML, "cannot be read"),
    bad("list", "a list", study("[1]"), YAML, "cannot be read", command=STATUS),
    bad("no-study", "no study in it", study("provenance: {}"), YAML, "cannot be read", command=STATUS),
    bad("no-provenance", "no provenance in it", study("study: {name: x}"), YAML, "cannot be read"),
    bad("bare-study", "a study without sections", study("study: {}\nprovenance: {}"), YAML, command=STATUS),
    bad("bare-study-exact", "a study without a name", study("study: {}\nprovenance: {}"), YAML, "name"),
    bad(
        "section-type",
        "a number for a section",
        replaced("  exits:\n", "  exits: 3\n  unknown:\n"),
        YAML,
        command=STATUS,
    ),
    bad("latin", "not UTF-8", study(b"study: \xe9"), YAML, "cannot be read", command=STATUS),
    bad("binary", "an image", study(b"\x89PNG\r\n\x1a\n\0"), YAML, "cannot be read", command=STATUS),
    bad(
        "tag",
        "a tag that would run a command",
        study("study: !!python/object/apply:os.system ['touch ran']\nprovenance: {}"),
        YAML,
        "cannot be read",
        command=STATUS,
    ),
    bad("nested", "10^5 brackets", study("study: " + "[" * 10**5), YAML, "cannot be read", command=STATUS),
    bad("laughs", "aliases", study("study: &a {x: 1}\nprovenance: *a"), YAML, "cannot be read", command=STATUS),
    bad("folder", "a folder", lambda p: ((p / YAML).unlink(), (p / YAML).mkdir()), "run", command=STATUS),
    bad("pipe", "a pipe", lambda p: ((p / YAML).unlink(), os.mkfifo(p / YAML)), "run", command=STATUS),
    bad("front-pipe", "a pipe", lambda p: ((p / YAML).unlink(), os.mkfifo(p / YAML)), "run", command=FRONT),
    bad("exact-pipe", "a pipe", lambda p: ((p / YAML).unlink(), os.mkfifo(p / YAML)), "run"),
    bad(
        "unknown-key",
        "a key of another version",
        replaced("  seed: 0\n", "  seed: 0\n  colour: red\n"),
        YAML,
        "colour: unknown key",
    ),
    bad("nan", "no number", replaced("validation: 0.2", "validation: .nan"), YAML, "data.validation", "nan"),
    bad(
        "run-other",
        "another study",
        lambda p: None,
        YAML,
        "holds another study",
        "--name",
        command="run quickstart --storage . --name run",
    ),
    Case("file", "a file as a run folder", lambda p: p.write("run", "x"), STATUS, ("run is no run folder",)),
    Case(
        "run-file",
        "a file as a run folder",
        lambda p: p.write("run", "x"),
        "run quickstart --storage . --name run",
        ("run is not a folder",),
    ),
    Case("empty-folder", "nothing in it", lambda p: (p / "run").mkdir(), EXACT, ("run is no run folder", "study.yaml")),
]


def part_of(place: Workplace, table: str) -> Path:
    """The first part of a table."""
    return min((place / "run/tables" / table).glob("part-*.parquet"))


def part(table: str, content: Callable[[bytes], bytes]) -> Change:
    def change(place: Workplace) -> None:
        path = part_of(place, table)
        path.write_bytes(content(path.read_bytes()))

    return change


def rows(table: str, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> Change:
    """Other rows in a table of the right schema."""

    def change(place: Workplace) -> None:
        path = part_of(place, table)
        stored = pq.read_table(path)
        edited = edit(stored.to_pandas())
        pq.write_table(pa.Table.from_pandas(edited, schema=stored.schema, preserve_index=False), path)

    return change


def column(name: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.assign(**{name: value})


def foreign(table: str) -> Change:
    return lambda place: pq.write_table(pa.table({"x": [1, 2]}), part_of(place, table))


def posing(table: str, other: str) -> Change:
    return lambda place: shutil.copy(part_of(place, other), part_of(place, table))


FRONT_PART, TRIALS_PART = "run/tables/front/part-", "run/tables/trials/part-"

TABLES = [
    bad("front-cut", "a cut table", part("front", cut), FRONT_PART, "cannot be read", command=FRONT),
    bad("front-empty", "an empty file", part("front", lambda _: b""), FRONT_PART, "cannot be read", command=FRONT),
    bad("front-words", "a text", part("front", lambda _: b"words" * 99), FRONT_PART, "cannot be read", command=FRONT),
    bad("front-flipped", "a flipped bit", part("front", flipped_page), FRONT_PART, "cannot be read", command=FRONT),
    bad("front-foreign", "somebody's table", foreign("front"), FRONT_PART, "cannot be read", command=FRONT),
    bad("front-posing", "another table", posing("front", "trials"), FRONT_PART, "cannot be read", command=FRONT),
    bad(
        "exits-posing", "another table", posing("exits", "front"), "tables/exits/part", "cannot be read", command=FRONT
    ),
    bad("exits-cut", "a cut table", part("exits", cut), "tables/exits/part", "cannot be read", command=FRONT),
    bad(
        "front-folder",
        "a folder",
        lambda p: ((one := part_of(p, "front")).unlink(), one.mkdir()),
        FRONT_PART,
        command=FRONT,
    ),
    bad(
        "front-part-pipe",
        "a pipe",
        lambda p: ((one := part_of(p, "front")).unlink(), os.mkfifo(one)),
        FRONT_PART,
        command=FRONT,
    ),
    bad(
        "front-part-name",
        "a part without a number",
        lambda p: p.write("run/tables/front/part-x.parquet", b""),
        "part-x.parquet",
        command=FRONT,
    ),
    bad(
        "front-gone",
        "no front",
        lambda p: shutil.rmtree(p / "run/tables/front"),
        "tables/front",
        "has not written the table yet",
        command=FRONT,
    ),
    bad(
        "front-no-rows", "a front without points", rows("front", lambda frame: frame[:0]), "tables/front", command=FRONT
    ),
    bad("exits-no-rows", "no exits", rows("exits", lambda frame: frame[:0]), "tables/exits", command=FRONT),
    bad(
        "front-nan",
        "accuracies that are none",
        rows("front", column("accuracy", np.nan)),
        "tables/front",
        "accuracy",
        command=FRONT,
    ),
    bad(
        "front-infinite",
        "accuracies without end",
        rows("front", column("accuracy", np.inf)),
        "tables/front",
        "accuracy",
        command=FRONT,
    ),
    bad(
        "front-null",
        "no numbers of points",
        rows("front", column("number", None)),
        "tables/front",
        "number",
        command=FRONT,
    ),
    bad(
        "front-sources",
        "energies of two sources",
        rows("front", lambda f: f.assign(energy_source=[f"s{n}" for n in range(len(f))])),
        "tables/front",
        "energy_source",
        command=FRONT,
    ),
    bad(
        "exits-null",
        "no accuracies",
        rows("exits", column("accuracy_all", np.nan)),
        "tables/exits",
        "accuracy_all",
        command=FRONT,
    ),
    bad(
        "figure-points",
        "a cut table",
        part("operating_points", cut),
        "tables/operating_points/part",
        "cannot be read",
        command="front run --figure x.png",
    ),
    bad(
        "output-front",
        "a cut table",
        part("front", cut),
        FRONT_PART,
        "cannot be read",
        command="front run --output x.csv",
    ),
    bad("status-trials", "a cut table", part("trials", cut), TRIALS_PART, "cannot be read", command=STATUS),
    bad(
        "status-trials-posing",
        "another table",
        posing("trials", "epochs"),
        TRIALS_PART,
        "cannot be read",
        command=STATUS,
    ),
    bad("status-points", "a cut table", part("operating_points", cut), "tables/operating_points/part", command=STATUS),
    bad("exact-trials", "a cut table", part("trials", cut), TRIALS_PART, "cannot be read"),
    bad("exact-costs", "a cut table", part("costs", cut), "tables/costs/part", "cannot be read"),
    bad("exact-points", "a cut table", part("operating_points", cut), "tables/operating_points/part", "cannot be read"),
]


@each([*STUDIES, *TABLES])
def test_a_bad_study_or_table_is_refused(case: Case, workplace: Workplace, capfd: pytest.CaptureFixture[str]) -> None:
    workplace.refuse(case, capfd)
