"""From images to logits: a network at a precision, run on all images of a split."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray

from study.arrays import batches
from study.data.batches import images_at_once, normalize, place, to_device
from study.data.settings import DataInfo, ImageSet
from study.networks.inference_network import InferenceNetwork, RunnableNetwork, all_logits, eval_mode
from study.networks.multi_exit import MultiExitNetwork
from study.networks.precisions import FORMATS, INT8, Precision
from study.networks.quantization import prepare
from study.traces.trace import SplitLogits

CALIBRATION_IMAGES = 512
"""Images on which int8 finds the ranges of activations. The histograms cost far more than the network itself."""


def collect_logits(
    network: InferenceNetwork,
    images: torch.Tensor,
    prepare: Callable[[torch.Tensor], torch.Tensor],
    *,
    batch_size: int = 256,
) -> NDArray[np.float32]:
    """Logits ``[N, E+1, C]`` of all exits and the classifier for images ``[N, ...]`` uint8, without augmentation.

    ``prepare`` turns a batch of images into the network's input, on the network's device. A ``MultiExitNetwork`` runs
    in eval mode and gets its mode back afterwards.
    """
    in_eval_mode = eval_mode(network) if isinstance(network, torch.nn.Module) else nullcontext()
    with in_eval_mode, torch.inference_mode():
        slices = batches(len(images), batch_size)
        return np.concatenate([all_logits(network, prepare(images[batch])).float().cpu().numpy() for batch in slices])


def ready(
    network: MultiExitNetwork,
    precision: Precision,
    calibration: ImageSet,
    info: DataInfo,
    *,
    compiled: bool = False,
    lowered: bool = True,
) -> RunnableNetwork:
    """A trained network in fp32 at a precision, ready to run. ``torch.compile`` makes the kernels of a compiled one.

    On images of the split ``calibration``, int8 finds the ranges of activations. ``lowered`` is that of
    :func:`study.networks.quantization.prepare`.
    """
    if FORMATS[precision].backbone is not INT8:
        return prepare(network, precision, compiled=compiled)
    pixels = place(calibration.images, torch.device("cpu"))
    count = min(len(pixels), images_at_once(pixels, CALIBRATION_IMAGES))
    spread = np.linspace(0, len(pixels) - 1, count).astype(np.int64)
    images = normalize(pixels[torch.from_numpy(spread)], info)
    return prepare(network, precision, calibration=images, compiled=compiled, lowered=lowered)


def trace_images(network: InferenceNetwork, images: ImageSet, info: DataInfo) -> SplitLogits:
    """Run a network on all images of a split, without augmentation, as :func:`collect_logits`."""
    pixels = place(images.images, network.device)
    logits = collect_logits(
        network,
        pixels,
        lambda batch: normalize(to_device(batch, network.device), info),
        batch_size=images_at_once(pixels, 256),
    )
    return SplitLogits(logits, np.asarray(images.labels), getattr(network, "int8_execution", None))
