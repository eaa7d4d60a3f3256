"""Traces: the logits of all exits for every image of a split, and the ratios that policies compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from study.arrays import batches
from study.traces.trace import SplitLogits

if TYPE_CHECKING:
    import torch

    from study.networks.inference_network import InferenceNetwork

import torch

from study.data.batches import normalize, place, to_device
from study.data.settings import DataInfo, ImageSet
from study.networks.inference_network import InferenceNetwork, RunnableNetwork
from study.networks.multi_exit import MultiExitNetwork
from study.networks.precisions import FORMATS, INT8, Precision
from study.networks.quantization import prepare


def collect_logits(
    network: InferenceNetwork,
    images: torch.Tensor,
    prepare: Callable[[torch.Tensor], torch.Tensor],
    *,
    batch_size: int = 256,
    on_batch: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Logits of all exits and the classifier, without augmentation.

    Args:
        network: at any precision; a ``MultiExitNetwork`` runs in eval mode and is left in the mode it was in.
        images: ``[N, ...]`` uint8.
        prepare: turns a batch of images into the network's input, on the network's device.
        batch_size: images a forward pass.
        on_batch: told the number of images done after each batch.

    Returns:
        ``[N, E+1, C]`` float32.
    """
    import torch

    from study.networks.inference_network import all_logits

    was_training = isinstance(network, torch.nn.Module) and network.training
    parts = []
    try:
        if isinstance(network, torch.nn.Module):
            network.eval()
        with torch.inference_mode():
            for batch in batches(len(images), batch_size):
                parts.append(all_logits(network, prepare(images[batch])).float().cpu().numpy())
                if on_batch:
                    on_batch(batch.stop)
    finally:
        if isinstance(network, torch.nn.Module):
            network.train(was_training)
    return np.concatenate(parts)


CALIBRATION_IMAGES = 512
"""As many show int8 the ranges of activations; their histograms cost far more than running the network."""


def ready(
    network: MultiExitNetwork, precision: Precision, calibration: ImageSet, info: DataInfo, *, compiled: bool = False
) -> RunnableNetwork:
    """A network at a precision; int8 finds its ranges on images of the calibration split."""
    if FORMATS[precision].backbone is not INT8:
        return prepare(network, precision, compiled=compiled)
    spread = np.linspace(0, len(calibration) - 1, min(len(calibration), CALIBRATION_IMAGES)).astype(np.int64)
    images = normalize(place(calibration.images[spread], torch.device("cpu")), info)
    return prepare(network, precision, calibration=images, compiled=compiled)


def trace_images(
    network: InferenceNetwork,
    images: ImageSet,
    info: DataInfo,
    *,
    on_batch: Callable[[int], None] | None = None,
) -> SplitLogits:
    """Run a network on a split, without augmentation."""
    logits = collect_logits(
        network,
        place(images.images, network.device),
        lambda batch: normalize(to_device(batch, network.device), info),
        on_batch=on_batch,
    )
    return SplitLogits(logits, np.asarray(images.labels), getattr(network, "int8_execution", None))
