"""What nobody wrote: good files with something else in some places."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image
from safetensors import torch as safetensors

from results.parts import write_part
from search_spaces.study_files import bundled
from study.checkpoints import tensors as checkpoints
from study.storage.publish import content_hash, publish, read_published
from study.traces.files import write_trace
from study.traces.trace import SplitLogits

ROOT = Path(__file__).parents[2]


ODD_TEXTS = (
    "",
    "\0",
    "../x",
    "~",
    "null",
    ".nan",
    ".inf",
    "1e999",
    "yes",
    "!!python/name:os.system",
    "*a",
    "&a",
    "\u2028",
)
ODD_VALUES = st.one_of(
    st.sampled_from([None, True, -1, 0, 2**31, 2**63, 10**30, -(10**30), 1e308, 0.5, "", "x" * 300, [], {}, [[]]]),
    st.sampled_from(ODD_TEXTS),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
        max_leaves=6,
    ),
)


@st.composite
def mutated(draw: st.DrawFn, bases: Callable[[], list[bytes]], *, most: int = 6) -> bytes:
    """Bytes with some spans cut out, overwritten, repeated, or with something put between."""
    content = bytearray(draw(st.sampled_from(bases())))
    for _ in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 20)))
        put = draw(
            st.binary(max_size=8)
            | st.sampled_from([text.encode() for text in ODD_TEXTS])
            | st.just(bytes(content[start:end]) * 3)
        )
        content[start : end if draw(st.booleans()) else start] = put
        if draw(st.integers(0, 15)) == 0:
            del content[start:]
    return bytes(content)


@st.composite
def mutated_json(draw: st.DrawFn, base: Callable[[], Any]) -> Any:
    """A JSON value in which some places hold something else, or nothing."""
    value = json.loads(json.dumps(base()))
    for _ in range(draw(st.integers(1, 3))):
        place, parent, key = value, None, None
        while isinstance(place, dict | list) and place and draw(st.integers(0, 4)):
            parent = place
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            place = parent[key]
        if parent is None:
            continue
        if draw(st.integers(0, 4)) == 0:
            del parent[key]
        else:
            parent[key] = copy.deepcopy(draw(ODD_VALUES))  # what is drawn twice is one object, and changed below
            if isinstance(parent, dict) and draw(st.integers(0, 4)) == 0:
                parent[draw(st.text(max_size=9))] = copy.deepcopy(draw(ODD_VALUES))
    return value


def json_or_bytes(base: Callable[[], Any]) -> st.SearchStrategy[bytes]:
    """JSON texts, most of them still JSON."""
    return st.one_of(
        mutated_json(base).map(lambda value: json.dumps(value).encode()),
        mutated(lambda: [json.dumps(base(), indent=1).encode()]),
        st.binary(max_size=60),
    )


@cache
def study_files() -> list[bytes]:
    """The studies that come with the program."""
    return [(ROOT / "search_spaces" / f"{name}.yaml").read_bytes() for name in bundled()]


@cache
def device_files() -> list[bytes]:
    """The device tables that come with the program."""
    return [path.read_bytes() for path in sorted((ROOT / "study/costs/devices").glob("*.yaml"))]


def small_trace() -> SplitLogits:
    """Four images, two exits and the classifier, three classes."""
    logits = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32)
    return SplitLogits(logits, np.array([0, 1, 2, 1]))


DESCRIPTION = {
    "weights": "a1b2@c3d4",
    "precision": "fp32",
    "int8_execution": None,
    "split": "test",
    "images_digest": "d",
}


@cache
def trace_files() -> dict[str, bytes]:
    """The files of a good trace."""
    with tempfile.TemporaryDirectory() as name:
        write_trace(Path(name) / "t", small_trace(), DESCRIPTION)
        published = read_published(Path(name) / "t")
        assert published is not None
        return dict(published.files)


def trace_header() -> Any:
    """Of the arrays of a good trace."""
    content = trace_files()["trace.safetensors"]
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def with_header(header: bytes) -> bytes:
    """The arrays of a good trace under another header."""
    content = trace_files()["trace.safetensors"]
    return len(header).to_bytes(8, "little") + header + content[8 + int.from_bytes(content[:8], "little") :]


@cache
def manifest() -> Any:
    """Of a good trace."""
    with tempfile.TemporaryDirectory() as name:
        publish(Path(name), trace_files())
        return json.loads((Path(name) / "manifest.json").read_text())


@st.composite
def signed_manifests(draw: st.DrawFn) -> bytes:
    """Manifests whose own hash is right: somebody meant them."""
    value = draw(mutated_json(manifest))
    with contextlib.suppress(TypeError, KeyError, ValueError, RecursionError):
        value["sha256"] = content_hash(value["files"], 64)
    return json.dumps(value).encode()


CHECKPOINT = {
    "format_version": checkpoints.FORMAT_VERSION,
    "network": {
        "backbone": "vgg11",
        "width": 0.125,
        "head": {"kind": "linear", "codewords": 64, "sharing": "paper", "conv_channels": 64, "conv_side": 8},
    },
    "training": {"mode": "exits", "batch_size": 32, "learning_rate": 0.001, "precision": "fp32", "seed": 0},
    "data": {
        "name": "digits",
        "image_size": 32,
        "channels": 1,
        "class_names": list("0123456789"),
        "mean": [0.3],
        "std": [0.4],
        "flip": False,
        "crop_padding": 4,
        "digest": "d",
        "settings": {"name": "digits"},
    },
    "history": [
        {
            "epoch": 1,
            "learning_rate": 0.001,
            "train_loss": 2.3,
            "validation_loss": 2.3,
            "classifier_accuracy": 0.1,
            "exit_accuracies": [0.1, 0.1],
            "score": 0.1,
            "seconds": 1.0,
        }
    ],
    "parent": None,
    "versions": {"torch": "2"},
}
COSTS = {
    "segment_flops": [1.0, 2.0, 3.0],
    "head_flops": [0.5, 0.5],
    "engine_step_flops": 0.1,
    "segment_seconds": [1.0, 2.0, 3.0],
    "head_seconds": [0.5, 0.5],
    "engine_step_seconds": 0.1,
    "seconds_source": "measured",
    "device": "here",
    "batch_size": 1,
}
_SPREAD = {"minimum": 1.0, "median": 1.0, "maximum": 1.0}
PROFILE = {
    "format": 1,
    "costs": COSTS,
    "precision": "fp32",
    "int8_execution": None,
    "compiled": False,
    "threads": 1,
    "segment_seconds": [_SPREAD] * 3,
    "head_seconds": [_SPREAD] * 2,
    "head_host_seconds": [_SPREAD] * 2,
    "engine_step_seconds": _SPREAD,
    "end_to_end_seconds": _SPREAD,
    "relative_error_seconds": 0.0,
    "settings": {},
    "windows": [{"what": "idle", "parts": 0, "repeat": 1, "seconds": 3.0, "joules": 9.0, "images": 0}],
    "versions": {},
    "date": "2025-01-01",
    **dict.fromkeys(("meter", "idle_watts", "end_to_end_joules", "end_to_end_joules_above_idle")),
    **dict.fromkeys(("segment_energy_above_idle", "head_energy_above_idle", "relative_error_energy")),
}


@cache
def weights() -> bytes:
    """A few good tensors."""
    import torch

    return bytes(safetensors.save({"features.0.weight": torch.ones(2, 3), "classifier.bias": torch.zeros(4)}))


@cache
def parquet() -> bytes:
    """A good part of a table."""
    with tempfile.TemporaryDirectory() as name:
        write_part(Path(name), "epochs", [{"epoch": 1, "score": 0.5, "exit_accuracies": [0.1]}])
        (path,) = (Path(name) / "epochs").iterdir()
        return path.read_bytes()


@cache
def pictures() -> list[bytes]:
    """The same picture in several formats."""
    found = []
    for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"):
        content = io.BytesIO()
        Image.new("RGB", (12, 9), (200, 30, 90)).save(content, kind)
        found.append(content.getvalue())
    return found
