"""Traces and costs of a run folder that are damaged, or are not what their names say."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import numpy as safetensors
from support.corpus import Case, Workplace, cut, each, edit_json, flipped, republish

from study.storage.publish import read_published

Change = Callable[[Workplace], object]


def bad(id: str, why: str, change: Change, *told: str, command: str = "front run --exact") -> Case:
    """A run folder that is good but for a change."""

    def arrange(place: Workplace) -> None:
        place.take("run")
        change(place)

    return Case(id, why, arrange, command, told)


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
        "float64",
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


@each([*TRACES, *PROFILES])
def test_a_bad_trace_or_profile_is_refused(case: Case, workplace: Workplace, capfd: pytest.CaptureFixture[str]) -> None:
    workplace.refuse(case, capfd)
