"""Traces on disk: computed once for a network's weights, a precision and a set of images, then read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import numpy as safetensors

from study.checkpoints import read_best
from study.data import DataInfo, ImageSet, normalize, place
from study.networks.multi_exit import MultiExitNetwork
from study.storage import DamagedError, publish, read_published, safe_name, set_aside
from study.trace import collect_logits


@dataclass(frozen=True, eq=False)
class SplitLogits:
    """Logits of all exits and the classifier on one split."""

    logits: NDArray[np.float32]
    """``[N, E+1, C]``."""
    labels: NDArray[np.int64]
    """``[N]``."""


def trace_folder(traces: Path, weights: str, split: str, images_digest: str, precision: str = "fp32") -> Path:
    """Where the trace of ``weights`` (``<trial id>@<hash>``) on some images is kept."""
    return traces / safe_name(f"{weights.replace('@', '-')}-{precision}-{split}-{images_digest[:12]}", "trace")


def read_trace(folder: Path) -> SplitLogits | None:
    """A stored trace; None where there is none. A damaged one is set aside and counts as none."""
    try:
        published = read_published(folder)
    except DamagedError as error:
        set_aside(folder, str(error))
        return None
    if published is None:
        return None
    arrays = safetensors.load(published.files["trace.safetensors"])
    return SplitLogits(arrays["logits"], arrays["labels"])


def write_trace(folder: Path, split: SplitLogits, description: dict[str, object]) -> None:
    """Publish a trace; ``description`` says of which network and images it is."""
    arrays = safetensors.save({"logits": split.logits, "labels": split.labels})
    publish(folder, {"trace.safetensors": arrays, "trace.json": json.dumps(description, indent=1).encode()})


def ensure_trace(
    traces: Path,
    checkpoints: Path,
    weights: str,
    split: str,
    images: Callable[[], ImageSet],
    images_digest: str,
    device: torch.device,
    on_batch: Callable[[int], None] | None = None,
) -> SplitLogits:
    """The stored trace, or a new one from the trial's best checkpoint.

    Args:
        traces, checkpoints: of the run folder.
        weights: ``<trial id>@<weights hash>``.
        split: named in the trace.
        images: called only where the trace has to be computed.
        images_digest: names the images.
        device: to compute on.
        on_batch: told the number of images done.
    """
    folder = trace_folder(traces, weights, split, images_digest)
    found = read_trace(folder)
    if found is not None:
        return found
    network, info = load_best(checkpoints, weights, device)
    result = trace_images(network, images(), info, on_batch=on_batch)
    write_trace(
        folder, result, {"weights": weights, "split": split, "images_digest": images_digest, "precision": "fp32"}
    )
    return result


def load_best(checkpoints: Path, weights: str, device: torch.device) -> tuple[MultiExitNetwork, DataInfo]:
    """The network of a trial's best checkpoint, in eval mode; ``weights`` and errors as in :func:`read_best`."""
    checkpoint, tensors = read_best(checkpoints, weights)
    return checkpoint.build(tensors, device), checkpoint.data


def trace_images(
    network: MultiExitNetwork,
    images: ImageSet,
    info: DataInfo,
    *,
    on_batch: Callable[[int], None] | None = None,
) -> SplitLogits:
    """Run a network on a split in fp32, without augmentation."""
    device = next(network.parameters()).device
    logits = collect_logits(
        network,
        place(images.images, device),
        lambda batch: normalize(batch.to(device), info),
        on_batch=on_batch,
    )
    return SplitLogits(logits, np.asarray(images.labels))
