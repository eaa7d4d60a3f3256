"""Traces on disk: computed once for a network's weights, a precision and a set of images, then read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors import numpy as safetensors

from results.storage.paths import Location
from search_spaces.words import short
from study.checkpoints.description import WeightsId
from study.checkpoints.tensors import load_best
from study.data.settings import DataInfo, ImageSet
from study.errors import UserError
from study.networks.inference_network import RunnableNetwork
from study.networks.precisions import FORMATS, INT8, Int8Execution, Precision
from study.networks.quantization import int8_execution
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
from study.traces.collect import ready, trace_images
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
    # As tensors of torch: safetensors maps them from the file. As arrays of numpy it would read them.
    with safe_open(file, framework="pt") as stored:
        return stored.get_tensor("logits").numpy(), stored.get_tensor("labels").numpy()


def write_trace(folder: Location, split: SplitLogits, description: Mapping[str, object], *, half: bool = False) -> None:
    """Publish a trace. ``description`` names the network and the images; ``half`` rounds the logits to float16."""
    logits = split.logits.astype(np.float16) if half else split.logits
    arrays = safetensors.save({"logits": logits, "labels": split.labels})
    publish(folder, {"trace.safetensors": arrays, "trace.json": dumps(description, indent=1).encode()})


_KEPT = 4


@dataclass(frozen=True, eq=False)
class TraceStore:
    """The traces of a run folder. A trace is computed at its first use. Executors send the store to their workers.

    On the images ``calibration``, int8 finds the ranges of activations.
    """

    traces: Location
    checkpoints: Location
    calibration: ImageSet
    device: torch.device
    _ready: dict[tuple[WeightsId, Precision], tuple[RunnableNetwork, DataInfo]] = field(
        default_factory=dict, init=False, repr=False
    )

    def find(self, weights: WeightsId, precision: Precision, split: str, images_digest: str) -> SplitLogits | None:
        """The stored trace of the images that a digest names, or None."""
        return read_trace(self._folder(weights, precision, split, images_digest))

    def _folder(self, weights: WeightsId, precision: Precision, split: str, images_digest: str) -> Location:
        execution = int8_execution(self.device) if FORMATS[precision].backbone is INT8 else None
        return trace_folder(self.traces, weights, precision, execution, split, images_digest)

    def get(
        self, weights: WeightsId, precision: Precision, split: str, images: ImageSet, images_digest: str
    ) -> SplitLogits:
        """The stored trace, or a new trace of the trial's best checkpoint.

        Raises:
            UserError: the checkpoint is damaged, or holds other weights.
        """
        found = self.find(weights, precision, split, images_digest)
        if found is not None:
            return found
        network, info = self._load(weights, precision)
        result = trace_images(network, images, info)
        description = {
            "weights": weights,
            "precision": precision,
            "int8_execution": result.int8_execution,
            "split": split,
            "images_digest": images_digest,
        }
        write_trace(self._folder(weights, precision, split, images_digest), result, description)
        return result

    def network(self, weights: WeightsId, precision: Precision) -> RunnableNetwork:
        """The network of a trial's best checkpoint at a precision. Raises as :meth:`get`."""
        return self._load(weights, precision)[0]

    def _load(self, weights: WeightsId, precision: Precision) -> tuple[RunnableNetwork, DataInfo]:
        """A network and the description of its images. The store keeps the networks that were loaded last."""
        if (weights, precision) not in self._ready:
            network, info = load_best(self.checkpoints, weights, self.device)
            while len(self._ready) >= _KEPT:
                del self._ready[next(iter(self._ready))]
            self._ready[weights, precision] = ready(network, precision, self.calibration, info), info
        return self._ready[weights, precision]
