"""The traces of a run folder: computed once for a network's weights, a precision and a set of images, then read."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from results.storage.paths import Location
from study.checkpoints.description import WeightsId
from study.checkpoints.tensors import load_best
from study.data.settings import DataInfo, ImageSet
from study.networks.inference_network import RunnableNetwork
from study.networks.precisions import FORMATS, INT8, Precision
from study.networks.quantization import int8_execution
from study.traces.collect import ready, trace_images
from study.traces.files import read_trace, trace_folder, write_trace
from study.traces.trace import SplitLogits

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
