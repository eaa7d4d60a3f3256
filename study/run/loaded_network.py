"""A trained network and its images, as the commands ``evaluate`` and ``profile`` load them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from study.checkpoints.pretrained import build_pretrained, check_fit, load_pretrained
from study.data.loading import load_dataset, load_test_set
from study.data.settings import Dataset, DataSettings, ImageSet
from study.errors import UserError
from study.networks.compiler import check_compiler
from study.networks.construction import new_network
from study.networks.inference_network import RunnableNetwork
from study.networks.multi_exit import MultiExitNetwork, load_backbone_weights
from study.networks.quantization import check_precision
from study.networks.settings import NetworkSettings
from study.run.train_one import ImageSource
from study.traces.collect import ready

Split = Literal["calibration", "validation", "test"]


@dataclass(frozen=True)
class LoadedNetwork:
    """A trained network and the data set of its training."""

    network: MultiExitNetwork
    runnable: RunnableNetwork
    """The network at the precision of the command."""
    dataset: Dataset
    data: DataSettings
    heads_trained: bool


def load_network(
    pretrained: Path,
    source: ImageSource,
    device: torch.device,
    settings: NetworkSettings,
    data: DataSettings,
    *,
    precision: str = "fp32",
    compiled: bool = False,
) -> LoadedNetwork:
    """Load a network and its data set.

    Args:
        pretrained: a checkpoint folder, or bare weights.
        source: where the images are.
        device: for the network.
        settings, data: from :func:`resolve_request`; they must agree with a checkpoint.
        precision: of the network; int8 takes its ranges from the calibration split.
        compiled: make the kernels with ``torch.compile``.

    Raises:
        UserError: the network or the images are not those of the checkpoint. With other images, the splits would mix.
    """
    known = check_precision(precision, device)
    if compiled:
        check_compiler(device)
    checkpoint, tensors = load_pretrained(pretrained)
    if checkpoint is not None:
        refuse_other_network(pretrained, checkpoint.network, settings)
    dataset = load_dataset(data, source.data_root, download=source.download)
    if checkpoint is None:
        check_fit(pretrained, tensors, settings, dataset.info)
        network = new_network(settings, dataset.info, data.seed)
        load_backbone_weights(network, tensors)
        network.to(device).eval()
        runnable = ready(network, known, dataset.calibration, dataset.info, compiled=compiled)
        return LoadedNetwork(network, runnable, dataset, data, heads_trained=False)
    if dataset.info.digest != checkpoint.data.digest:
        raise UserError(
            f"these {data.name} images are not those that {pretrained} was trained with "
            f"(digest {dataset.info.digest[:12]}, expected {checkpoint.data.digest[:12]}): the splits would mix"
        )
    network = build_pretrained(pretrained, checkpoint, tensors, device)
    runnable = ready(network, known, dataset.calibration, dataset.info, compiled=compiled)
    return LoadedNetwork(network, runnable, dataset, data, heads_trained=checkpoint.training.trains_heads)


def refuse_other_network(pretrained: Path, stored: NetworkSettings, asked: NetworkSettings) -> None:
    """Refuse a checkpoint of another backbone or width than the command names.

    Raises:
        UserError: the checkpoint differs; the line names the setting and both values.
    """
    for name in ("backbone", "width"):
        if getattr(stored, name) != getattr(asked, name):
            raise UserError(
                f"{pretrained} holds a network of {name} {getattr(stored, name)}, not {getattr(asked, name)}"
            )


def split_images(loaded: LoadedNetwork, split: Split, source: ImageSource) -> ImageSet:
    """The images of a split; only ``test`` opens the test images."""
    if split == "test":
        return load_test_set(loaded.data, source.data_root, download=source.download)
    images: ImageSet = getattr(loaded.dataset, split)
    return images
