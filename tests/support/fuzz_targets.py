"""Readers of files, what each is fed with, and what it must keep to."""

from __future__ import annotations

import contextlib
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from results.parts import read_table
from results.schemas import SCHEMAS, TableError
from search_spaces.spec import SpecError, StudySpec, parse_change, parse_space, validate_space
from study.checkpoints.pretrained import load_pretrained
from study.costs.costs import Costs
from study.costs.measure.profile import Profile
from study.costs.model.devices import load_device
from study.errors import UserError
from study.networks.construction import meta_network
from study.storage.publish import publish, read_published
from study.traces.files import stored_traces
from support.fuzz_inputs import (
    CHECKPOINT,
    COSTS,
    DESCRIPTION,
    ODD_VALUES,
    PROFILE,
    device_files,
    json_or_bytes,
    manifest,
    mutated,
    mutated_json,
    parquet,
    pictures,
    signed_manifests,
    study_files,
    trace_files,
    trace_header,
    weights,
    with_header,
)
from support.image_files import read_image

SECONDS = 10.0
"""A reader that takes longer on so little hangs."""
MEGABYTES = 500
REFUSALS = (SpecError, UserError, TableError)


@dataclass(frozen=True)
class Target:
    """A reader, and what it is fed with."""

    inputs: st.SearchStrategy[Any]
    read: Callable[[Any], object]


@contextlib.contextmanager
def held_to_the_rules() -> Iterator[None]:
    """Let a reader refuse in one line; all else that it does wrong is raised."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        yield
    except REFUSALS as error:
        line = str(error)
        assert line and len(line.splitlines()) == 1, f"not one line: {line!r}"
        assert len(line) < 2000, f"a line of {len(line)} characters"
    taken = time.monotonic() - started
    assert taken < SECONDS, f"it took {taken:.1f} s"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MEGABYTES, f"it took {grown:.0f} MB"


@contextlib.contextmanager
def in_folder(files: dict[str, bytes]) -> Iterator[Path]:
    """A folder with some files, for a moment."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        for file, content in files.items():
            path = Path(name) / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield Path(name)


def read_study(content: bytes | str) -> None:
    """A study is one that can be written and read again, or it is refused with the file's name."""
    text = content if isinstance(content, str) else content.decode("utf-8", "replace")
    try:
        spec = parse_space(text, "study.yaml")
    except SpecError as error:
        assert str(error).startswith("study.yaml: ")
        raise
    assert validate_space(spec.plain(), "again") == spec


def read_change(text: str) -> None:
    """``--set TEXT``, on top of the quickstart."""
    change = parse_change(text)
    spec = parse_space(study_files()[0].decode(), "study.yaml", [change])
    assert isinstance(spec, StudySpec)


def read_device(content: bytes) -> None:
    """A device table."""
    with in_folder({"table.yaml": content}) as folder:
        load_device(str(folder / "table.yaml"))


def read_trace_files(**files: bytes) -> None:
    """A stored trace in which some files are others, as its manifest knows."""
    with in_folder({}) as folder:
        publish(folder / "t", {**trace_files(), **{name.replace("_", "."): content for name, content in files.items()}})
        for stored in stored_traces(folder):
            assert isinstance(stored.weights, str) and isinstance(stored.split, str)
            split = stored.read()
            samples, _, classes = split.logits.shape
            assert np.isfinite(split.logits).all() and len(split.labels) == samples
            assert ((split.labels >= 0) & (split.labels < classes)).all()


def read_manifest(content: bytes) -> None:
    """A published folder with another manifest: refused, or of no other content."""
    with in_folder({}) as folder:
        publish(folder / "t", trace_files())
        (folder / "t/manifest.json").write_bytes(content)
        published = read_published(folder / "t")
        assert published is not None and set(published.files.values()) <= set(trace_files().values())


def read_checkpoint(content: bytes) -> None:
    """A checkpoint that says something else of itself."""
    with in_folder({}) as folder:
        publish(folder / "best", {"checkpoint.json": content, "weights.safetensors": weights()})
        checkpoint, _ = load_pretrained(folder)
        assert checkpoint is not None and checkpoint.history
        meta_network(checkpoint.network, checkpoint.data)


def read_weights(content: bytes) -> None:
    """Bare weights, by either name."""
    for name in ("w.safetensors", "w.pt"):
        with in_folder({name: content}) as folder, contextlib.suppress(UserError):
            _, tensors = load_pretrained(folder / name)
            assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def read_parquet(content: bytes) -> None:
    """A part of a table."""
    with in_folder({"epochs/part-00000.parquet": content}) as folder:
        assert list(read_table(folder, "epochs").columns) == SCHEMAS["epochs"].names


def read_picture(content: bytes) -> None:
    """An image."""
    with in_folder({"x.png": content}) as folder:
        assert read_image(folder / "x.png", image_size=8, channels=3).shape == (3, 8, 8)


def _keys() -> list[str]:
    sections = {name: value for name, value in parse_space("name: x", "x").plain().items() if isinstance(value, dict)}
    return ["name", "seed", *(f"{section}.{key}" for section, inner in sections.items() for key in inner)]


CHANGES = st.one_of(
    st.text(max_size=40),
    st.builds("{}={}".format, st.sampled_from(_keys()) | st.text(max_size=9), st.text(max_size=20)),
    st.builds(lambda key, value: f"{key}={json.dumps(value)}", st.sampled_from(_keys()), ODD_VALUES),
)
TARGETS: dict[str, Target] = {
    "study_text": Target(st.text(max_size=300) | st.binary(max_size=300), read_study),
    "study_file": Target(mutated(study_files), read_study),
    "study_values": Target(mutated_json(lambda: parse_space("name: x", "x").plain()).map(json.dumps), read_study),
    "set_text": Target(CHANGES, read_change),
    "device_file": Target(mutated(device_files), read_device),
    "trace_description": Target(
        json_or_bytes(lambda: DESCRIPTION), lambda content: read_trace_files(trace_json=content)
    ),
    "trace_header": Target(
        json_or_bytes(trace_header), lambda header: read_trace_files(trace_safetensors=with_header(header))
    ),
    "trace_bytes": Target(
        mutated(lambda: [trace_files()["trace.safetensors"]]),
        lambda content: read_trace_files(trace_safetensors=content),
    ),
    "manifest": Target(json_or_bytes(manifest) | signed_manifests(), read_manifest),
    "checkpoint": Target(json_or_bytes(lambda: CHECKPOINT), read_checkpoint),
    "weights": Target(mutated(lambda: [weights()]), read_weights),
    "costs": Target(json_or_bytes(lambda: COSTS), Costs.from_json),
    "profile": Target(json_or_bytes(lambda: PROFILE), Profile.from_json),
    "table": Target(mutated(lambda: [parquet()], most=3), read_parquet),
    "picture": Target(mutated(pictures), read_picture),
}


def check(name: str, value: Any) -> None:
    """Feed a target with one input."""
    with held_to_the_rules():
        TARGETS[name].read(value)
