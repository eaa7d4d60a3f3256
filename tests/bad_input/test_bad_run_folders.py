"""Run folders whose files are damaged, or are not what their names say."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus import Case, Workplace, each, edit_json, republish
from safetensors import numpy as safetensors

from study.storage import read_published

Change = Callable[[Workplace], object]
STATUS, FRONT, EXACT = "status run", "front run", "front run --exact"


def bad(id: str, why: str, change: Change, *told: str, command: str = EXACT) -> Case:
    """A run folder that is good but for a change."""

    def arrange(place: Workplace) -> None:
        place.take("run")
        change(place)

    return Case(id, why, arrange, command, told)


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


def flipped(content: bytes) -> bytes:
    place = len(content) // 5
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


FRONT_PART, TRIALS_PART = "run/tables/front/part-", "run/tables/trials/part-"
TABLES = [
    bad("front-cut", "a cut table", part("front", cut), FRONT_PART, "cannot be read", command=FRONT),
    bad("front-empty", "an empty file", part("front", lambda _: b""), FRONT_PART, "cannot be read", command=FRONT),
    bad("front-words", "a text", part("front", lambda _: b"words" * 99), FRONT_PART, "cannot be read", command=FRONT),
    bad("front-flipped", "a flipped bit", part("front", flipped), FRONT_PART, "cannot be read", command=FRONT),
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
        "not come that far",
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


def folder_of(place: Workplace, split: str = "validation") -> Path:
    (found,) = (place / "run/traces").glob(f"*{split}*")
    return found


def trace(change: Callable[[Path], object]) -> Change:
    return lambda place: change(folder_of(place))


def arrays(edit: Callable[[dict[str, np.ndarray]], object]) -> Change:
    """Other arrays in a trace, as its manifest knows."""

    def change(folder: Path) -> None:
        published = read_published(folder)
        assert published is not None
        stored = dict(safetensors.load(published.files["trace.safetensors"]))
        edit(stored)
        republish(folder, trace_safetensors=safetensors.save(stored))

    return trace(change)


def header(edit: Callable[[dict], object]) -> Change:
    """Another header of the arrays' file, as its manifest knows."""

    def change(folder: Path) -> None:
        published = read_published(folder)
        assert published is not None
        content = published.files["trace.safetensors"]
        size = int.from_bytes(content[:8], "little")
        value = json.loads(content[8 : 8 + size])
        edit(value)
        text = json.dumps(value).encode()
        republish(folder, trace_safetensors=struct.pack("<Q", len(text)) + text + content[8 + size :])

    return trace(change)


def described(edit: Callable[[dict], object]) -> Change:
    return trace(lambda folder: edit_json(folder, "trace.json", edit))


def content_of(**files: bytes | None) -> Change:
    return trace(lambda folder: republish(folder, **files))


def damaged(pattern: str, content: Callable[[bytes], bytes]) -> Change:
    def change(folder: Path) -> None:
        (path,) = folder.glob(pattern)
        path.write_bytes(content(path.read_bytes()))

    return trace(change)


def set_to(name: str, place: tuple[int, ...] | int, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def edit(stored: dict[str, np.ndarray]) -> None:
        stored[name] = stored[name].copy()
        stored[name][place] = value

    return edit


TRACE = "run/traces/"
TRACES = [
    bad("trace-json-cut", "a cut description", damaged("trace-*.json", cut), TRACE, "manifest"),
    bad("trace-json-flipped", "a changed description", damaged("trace-*.json", flipped), TRACE, "manifest"),
    bad("trace-cut", "cut logits", damaged("trace-*.safetensors", cut), TRACE, "manifest"),
    bad("trace-flipped", "a flipped bit", damaged("trace-*.safetensors", flipped), TRACE, "manifest"),
    bad(
        "trace-gone", "no logits", trace(lambda f: [one.unlink() for one in f.glob("*.safetensors")]), TRACE, "missing"
    ),
    bad("manifest-cut", "a cut manifest", damaged("manifest.json", cut), TRACE, "manifest.json", "cannot be read"),
    bad("manifest-empty", "an empty manifest", damaged("manifest.json", lambda _: b""), TRACE, "manifest.json"),
    bad("manifest-nested", "10^5 brackets", damaged("manifest.json", lambda _: b"[" * 10**5), TRACE, "manifest.json"),
    bad("json-words", "no JSON", content_of(trace_json=b"words"), TRACE, "trace.json"),
    bad("json-empty", "nothing in it", content_of(trace_json=b""), TRACE, "trace.json"),
    bad("json-list", "a list", content_of(trace_json=b"[]"), TRACE, "trace.json"),
    bad("json-null", "nothing", content_of(trace_json=b"null"), TRACE, "trace.json"),
    bad("json-latin", "not UTF-8", content_of(trace_json=b'{"weights": "\xe9"}'), TRACE, "trace.json"),
    bad("json-nested", "10^5 brackets", content_of(trace_json=b"[" * 10**5), TRACE, "trace.json"),
    bad("json-digits", "5,000 digits", content_of(trace_json=b"9" * 5000), TRACE, "trace.json"),
    bad("json-none", "no description", content_of(trace_json=None), TRACE),
    bad("json-weights", "no weights named", described(lambda value: value.pop("weights")), TRACE, "trace.json"),
    bad(
        "json-weights-number",
        "a number for a name",
        described(lambda value: value.update(weights=3)),
        TRACE,
        "trace.json",
    ),
    bad(
        "json-weights-up",
        "weights that lead out",
        described(lambda value: value.update(weights="../../x@y")),
        TRACE,
        "weights",
        "cannot be",
    ),
    bad("json-split", "a list for a split", described(lambda value: value.update(split=["x"])), TRACE, "trace.json"),
    bad(
        "json-execution",
        "an unknown way of int8",
        described(lambda value: value.update(int8_execution="magic")),
        TRACE,
        "int8_execution",
    ),
    bad("tensors-words", "no tensors", content_of(trace_safetensors=b"words and words"), TRACE, "tensors"),
    bad("tensors-empty", "nothing in it", content_of(trace_safetensors=b""), TRACE, "tensors"),
    bad("tensors-none", "no file of tensors", content_of(trace_safetensors=None), TRACE),
    bad(
        "header-huge",
        "a header of 2^63 bytes",
        content_of(trace_safetensors=struct.pack("<Q", 2**63) + b"{}"),
        TRACE,
        "tensors",
    ),
    bad(
        "header-words",
        "a header that is no JSON",
        content_of(trace_safetensors=struct.pack("<Q", 5) + b"words"),
        TRACE,
        "tensors",
    ),
    bad(
        "header-shape",
        "a shape of 2^60 logits",
        header(lambda value: value["logits"].update(shape=[2**30, 2**30, 10])),
        TRACE,
    ),
    bad(
        "header-offsets",
        "an offset behind the end",
        header(lambda value: value["logits"].update(data_offsets=[0, 10**12])),
        TRACE,
    ),
    bad(
        "header-negative",
        "a negative offset",
        header(lambda value: value["logits"].update(data_offsets=[-8, 8])),
        TRACE,
    ),
    bad(
        "header-overlap",
        "arrays that overlap",
        header(lambda value: value["labels"].update(data_offsets=[0, 8])),
        TRACE,
    ),
    bad("header-dtype", "an unknown format", header(lambda value: value["logits"].update(dtype="F7")), TRACE),
    bad("no-logits", "no logits", arrays(lambda stored: stored.pop("logits")), TRACE, "logits"),
    bad("no-labels", "no labels", arrays(lambda stored: stored.pop("labels")), TRACE, "labels"),
    bad(
        "logits-float64",
        "logits in another format",
        arrays(lambda stored: stored.update(logits=stored["logits"].astype(np.float64))),
        TRACE,
        "logits",
        "F64",
    ),
    bad(
        "logits-flat",
        "logits of two dimensions",
        arrays(lambda stored: stored.update(logits=stored["logits"].reshape(48, -1))),
        TRACE,
        "logits",
        "shape",
    ),
    bad(
        "logits-few",
        "fewer logits than labels",
        arrays(lambda stored: stored.update(logits=stored["logits"][:-1])),
        TRACE,
        "labels",
        "shape",
    ),
    bad(
        "logits-none",
        "no image",
        arrays(lambda stored: stored.update(logits=stored["logits"][:0], labels=stored["labels"][:0])),
        TRACE,
        "logits",
        "shape",
    ),
    bad(
        "logits-nan",
        "a logit that is NaN",
        arrays(set_to("logits", (3, 2, 1), np.nan)),
        TRACE,
        "logit",
        "sample 3",
        "exit 3",
        "not finite",
    ),
    bad("logits-inf", "a logit without end", arrays(set_to("logits", (3, 2, 1), np.inf)), TRACE, "logit", "not finite"),
    bad("labels-high", "a label beyond the classes", arrays(set_to("labels", 0, 10)), TRACE, "labels", "10 classes"),
    bad("labels-negative", "a negative label", arrays(set_to("labels", 0, -1)), TRACE, "labels", "-1"),
    bad(
        "labels-float",
        "labels that are no whole numbers",
        arrays(lambda stored: stored.update(labels=stored["labels"] + 0.5)),
        TRACE,
        "labels",
    ),
    bad(
        "labels-matrix",
        "labels of two dimensions",
        arrays(lambda stored: stored.update(labels=stored["labels"].reshape(-1, 1))),
        TRACE,
        "labels",
        "shape",
    ),
    bad(
        "exits-fewer",
        "fewer exits than the costs",
        arrays(lambda stored: stored.update(logits=stored["logits"][:, 1:].copy())),
        TRACE,
        "its exits or classes",
    ),
    bad(
        "calibration-nan",
        "a logit of another split that is NaN",
        lambda place: [
            republish(
                folder := folder_of(place, "calibration"),
                trace_safetensors=safetensors.save(
                    {
                        name: np.full_like(value, np.nan) if name == "logits" else value
                        for name, value in safetensors.load(read_published(folder).files["trace.safetensors"]).items()
                    }
                ),
            )
        ],
        TRACE,
        "calibration",
        "not finite",
    ),
    bad("no-traces", "no traces", lambda place: shutil.rmtree(place / "run/traces"), "run/traces", "no traces"),
    bad(
        "no-calibration",
        "one split only",
        lambda place: shutil.rmtree(folder_of(place, "calibration")),
        "calibration",
        "give `run` again",
    ),
]


def costs(change: Callable[[Path], object]) -> Change:
    return lambda place: change(next((place / "run/profiles").glob("*.json")))


def edit_costs(edit: Callable[[dict], object]) -> Change:
    def change(path: Path) -> None:
        value = json.loads(path.read_text())
        edit(value)
        path.write_text(json.dumps(value))

    return costs(change)


PROFILE = "run/profiles/"
PROFILES = [
    bad("costs-gone", "no costs", costs(Path.unlink), PROFILE, "is missing", "give `run` again"),
    bad("costs-empty", "nothing in it", costs(lambda path: path.write_text("")), PROFILE, "cannot be read"),
    bad("costs-latin", "not UTF-8", costs(lambda path: path.write_bytes(b"\xe9")), PROFILE, "cannot be read"),
    bad("costs-list", "a list", costs(lambda path: path.write_text("[]")), PROFILE, "cannot be read"),
    bad("costs-nested", "10^5 brackets", costs(lambda path: path.write_text("[" * 10**5)), PROFILE, "cannot be read"),
    bad("costs-folder", "a folder", costs(lambda path: (path.unlink(), path.mkdir())), PROFILE),
    bad("costs-pipe", "a pipe", costs(lambda path: (path.unlink(), os.mkfifo(path))), PROFILE),
    bad(
        "costs-nan", "no number", edit_costs(lambda value: value.update(engine_step_flops=float("nan"))), PROFILE, "NaN"
    ),
    bad(
        "costs-negative",
        "negative costs",
        edit_costs(lambda value: value["head_flops"].__setitem__(0, -1)),
        PROFILE,
        "head_flops",
    ),
    bad("costs-short", "a part too few", edit_costs(lambda value: value["head_flops"].pop()), PROFILE, "exits need"),
    bad(
        "costs-key",
        "an unknown unit",
        edit_costs(lambda value: value.update(segment_millijoules=[1])),
        PROFILE,
        "segment_millijoules",
    ),
    bad(
        "costs-source",
        "energies from nowhere",
        edit_costs(lambda value: value.update(energy_source=None)),
        PROFILE,
        "energy_source",
    ),
]


@each([*STUDIES, *TABLES])
def test_a_bad_study_or_table_is_refused(case: Case, workplace: Workplace, capfd: pytest.CaptureFixture[str]) -> None:
    workplace.refuse(case, capfd)


@each([*TRACES, *PROFILES])
def test_a_bad_trace_or_profile_is_refused(case: Case, workplace: Workplace, capfd: pytest.CaptureFixture[str]) -> None:
    workplace.refuse(case, capfd)
