"""Traces as files: read, listed and written without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors import numpy as safetensors

from results.storage.paths import Location
from search_spaces.words import short
from study.checkpoints.description import WeightsId
from study.errors import UserError
from study.networks.precisions import Int8Execution, Precision
from study.storage.publish import (
    MANIFEST,
    DamagedError,
    publish,
    published_files,
    read_or_set_aside,
    read_published,
    safe_name,
)
from study.storage.strict_json import dumps, parse_json
from study.traces.trace import SplitLogits, check_logits


def trace_folder(
    traces: Location,
    weights: WeightsId,
    precision: Precision,
    execution: Int8Execution | None,
    split: str,
    images_digest: str,
) -> Location:
    """The folder of a trace among all ``traces``. ``execution`` tells how int8 was computed: traces then differ."""
    computed = precision if execution is None else f"{precision}-{execution}"
    return traces / safe_name(f"{weights.file_stem}-{computed}-{split}-{images_digest[:12]}", "trace")


@dataclass(frozen=True)
class StoredTrace:
    """A trace on disk, known by its description."""

    folder: Location
    description: Mapping[str, object]
    weights: WeightsId
    precision: str
    split: str
    images_digest: str

    @property
    def written(self) -> float:
        """When the trace was written, in seconds since 1970."""
        return (self.folder / MANIFEST).stat().st_mtime

    def read(self) -> SplitLogits:
        """The logits and labels.

        Raises:
            DamagedError: a file does not match its manifest, or holds no trace. Unlike :func:`read_trace`, this method
                sets nothing aside.
        """
        found = _read(self.folder)
        if found is None:
            raise DamagedError(f"{self.folder} has no manifest any more")
        return found


def stored_traces(traces: Location) -> list[StoredTrace]:
    """All whole traces of a run folder, without traces that were set aside.

    Raises:
        UserError: a description cannot be read.
    """
    folders: list[Location] = list(traces.glob("*"))
    found = []
    for folder in sorted(folders, key=lambda one: one.name):
        published = read_published(folder, {"trace.json"}) if folder.is_dir() and folder.suffix != ".damaged" else None
        if published is None:
            continue
        try:
            of = parse_json(published.files["trace.json"])
            named, precision, split = of["weights"], of["precision"], of["split"]
            if not all(isinstance(value, str) for value in (named, precision, split)):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{folder}: trace.json does not say of which network it is") from None
        weights = WeightsId.parse(named)
        safe_name(weights.file_stem, f"{folder}: weights")
        found.append(StoredTrace(folder, of, weights, precision, split, str(of.get("images_digest"))))
    return found


def read_trace(folder: Location) -> SplitLogits | None:
    """A stored trace, its logits mapped from the file; None where there is no trace.

    A damaged trace is set aside and counts as no trace.
    """
    return read_or_set_aside(folder, lambda: _read(folder))


def _read(folder: Location) -> SplitLogits | None:
    files = published_files(folder)
    if files is None:
        return None
    try:
        execution = parse_json(files["trace.json"].read_bytes()).get("int8_execution")
        if execution not in (None, *get_args(Int8Execution)):
            raise ValueError(f"int8_execution is {execution!r}")
        logits, labels = _arrays(files["trace.safetensors"])
        if logits.dtype not in (np.float32, np.float16) or labels.dtype != np.int64:
            raise ValueError(f"it holds logits as {logits.dtype} and labels as {labels.dtype}")
        split = SplitLogits(logits.astype(np.float32, copy=False), labels, execution)
        check_logits(split.logits, split.labels)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{folder} holds no trace with readable tensors ({short(error, 200)})") from None
    return split


def _arrays(file: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """The logits and labels of a file; the logits are mapped from it where that is possible."""
    if not str(file).isprintable():  # safetensors opens only paths that are UTF-8
        arrays = safetensors.load(file.read_bytes())
        return arrays["logits"], arrays["labels"]
    with safe_open(file, framework="numpy") as stored:  # checks the header, and reads no tensor
        labels = stored.get_tensor("labels")
        kind = _FLOATS.get(stored.get_slice("logits").get_dtype())
        if kind is None:
            return stored.get_tensor("logits"), labels
    return _mapped(file, "logits", kind), labels


_FLOATS: Mapping[str, type[np.floating[Any]]] = {"F32": np.float32, "F16": np.float16}


def _mapped(file: Path, name: str, kind: type[np.floating[Any]]) -> NDArray[Any]:
    """A tensor of a safetensors file whose header was checked, mapped: ``safe_open`` would read the whole tensor.

    The file begins with the length of its header in 8 bytes, little-endian. The header is JSON, and names the place of
    each tensor among the bytes behind the header.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        entry = parse_json(opened.read(length))[name]
    shape, (begin, _) = tuple(entry["shape"]), entry["data_offsets"]
    if not math.prod(shape):
        return np.empty(shape, kind)
    # Copied where it is written to: the file stays as it is.
    mapped = np.memmap(file, kind, "c", 8 + length + begin, shape).view(np.ndarray)
    return mapped if mapped.flags.aligned else mapped.copy()


def write_trace(folder: Location, split: SplitLogits, description: Mapping[str, object], *, half: bool = False) -> None:
    """Publish a trace. ``description`` names the network and the images; ``half`` rounds the logits to float16."""
    logits = split.logits.astype(np.float16) if half else split.logits
    # safetensors ignores strides: it would write the numbers in the order of the memory, under the shape of the array.
    arrays = safetensors.save({"logits": np.ascontiguousarray(logits), "labels": np.ascontiguousarray(split.labels)})
    publish(folder, {"trace.safetensors": arrays, "trace.json": dumps(description, indent=1).encode()})
