"""Weights that a backbone starts from: fine-tuning. They are made to fit other classes, colours and sizes of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors import torch as safetensors
from torch import Tensor

from results.storage.paths import Location
from search_spaces.words import short
from study.checkpoints.description import WeightsId
from study.checkpoints.pretrained import load_pretrained
from study.checkpoints.tensors import weights_fingerprint
from study.errors import UserError
from study.networks.multi_exit import MultiExitNetwork, output_layer
from study.networks.weight_names import plain_names, refuse_misfit
from study.networks.weight_shapes import to_colours, to_positions
from study.storage.home import user_path
from study.storage.publish import publish, read_published

TRIAL = "weights"
"""The trial id in the :class:`WeightsId` of weights from outside a run folder."""
_LIBRARY = "torchvision:"


def load_initial(name: str, backbones: Sequence[str], *, download: bool) -> dict[str, Tensor]:
    """The weights of a file or checkpoint folder, or with ``torchvision:NAME`` published weights of torchvision.

    Args:
        name: a path, or as ``torchvision:IMAGENET1K_V1``.
        backbones: that start from the weights.
        download: published weights may be fetched; otherwise they must lie in torch's cache.

    Raises:
        UserError: nothing is there, it holds no weights, or the backbone has no such published weights.
    """
    if not name.startswith(_LIBRARY):
        return load_pretrained(user_path(name))[1]
    from torchvision import models

    model = backbones[0].removeprefix(_LIBRARY)
    if len(set(backbones)) != 1 or not backbones[0].startswith(_LIBRARY):
        raise UserError(f"initial: {name} needs one backbone torchvision:NAME, not {', '.join(map(str, backbones))}")
    known = models.get_model_weights(model)
    weights: Any = known.__members__.get(name.removeprefix(_LIBRARY))
    if weights is None:
        raise UserError(f"initial: {backbones[0]} has no weights {name}: known are {', '.join(known.__members__)}")
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    if not file.exists() and not download:
        raise UserError(f"initial: {name} of {backbones[0]} is not in {file.parent}: fetch it with --download")
    if not file.exists():
        try:
            torch.hub.load_state_dict_from_url(weights.url, progress=False, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            raise UserError(f"initial: {weights.url} cannot be fetched: {short(error, 120)}") from None
    return load_pretrained(file)[1]


def is_at_hand(name: str) -> bool:
    """Whether weights that a path names lie there; published weights of torchvision are looked for elsewhere."""
    return name.startswith(_LIBRARY) or user_path(name).exists()


def initial_id(tensors: Mapping[str, Tensor]) -> WeightsId:
    """The name of weights from outside."""
    return WeightsId(TRIAL, weights_fingerprint(tensors))


@dataclass(frozen=True)
class Fitted:
    """Weights that fit a network."""

    kept: Mapping[str, Tensor]
    """By the names of the network's backbone."""
    anew: Sequence[str]
    """The names of those that start anew."""
    changes: Sequence[str]
    """What differs from the weights that were given, in one line each."""


def fit_initial(name: str, network: MultiExitNetwork, tensors: Mapping[str, Tensor]) -> Fitted:
    """Weights from outside, made to fit the backbone of a network.

    A tensor of the output layer starts anew where it is of another number of classes. The kernels of a first layer are
    made for grey or for colour images, and the positions of patches for the network's size of images.

    Args:
        name: of the weights, in messages.
        network: may lie on the device ``meta``.
        tensors: by any names that :func:`study.networks.weight_names.plain_names` knows.

    Raises:
        UserError: a tensor is missing, unexpected, or of another shape.
    """
    own = network.backbone.state_dict()
    given = plain_names(tensors, own)
    anew = [
        one
        for one in output_layer(network)
        if one in given and given[one].shape != own[one].shape and given[one].shape[1:] == own[one].shape[1:]
    ]
    changes = []
    if anew:
        layer, there = anew[0].rpartition(".")[0], len(given[anew[0]])
        images = f"these images have {network.classes}"
        changes.append(f"{name}: {layer} is for {there} classes, {images}: this layer starts anew")
    kept = {one: tensor for one, tensor in given.items() if one not in anew}
    for one in [one for one, tensor in kept.items() if one in own and tensor.shape != own[one].shape]:
        if (colours := to_colours(kept[one], own[one])) is not None:
            told = "colour images: its kernels are summed over the channels"
            if colours.shape[1] != 1:
                told = "grey images: its kernels are repeated for each channel, at a third"
            changes.append(f"{name}: {one} is for {told}")
            kept[one] = colours
        elif (positions := to_positions(one, kept[one], own[one])) is not None:
            sizes = f"{kept[one].shape[1]} tokens, this network has {positions.shape[1]}"
            changes.append(f"{name}: {one} is for {sizes}: the positions are interpolated")
            kept[one] = positions
    expected = {one: tensor for one, tensor in own.items() if one not in anew}
    try:
        refuse_misfit("backbone", expected, kept, may_lack=lambda one: one.endswith(".num_batches_tracked"))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    return Fitted(kept, anew, changes)


def load_initial_weights(network: MultiExitNetwork, tensors: Mapping[str, Tensor]) -> None:
    """Copy weights into the backbone, as :func:`fit_initial` makes them fit; refused as there."""
    network.backbone.load_state_dict(fit_initial("initial weights", network, tensors).kept, strict=False)


def publish_initial(run_folder: Location, identity: WeightsId, tensors: Mapping[str, Tensor]) -> None:
    """Store weights in a run folder, where every machine finds them."""
    folder = run_folder / "initial" / identity.digest
    if read_published(folder, ()) is None:
        stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        publish(folder, {"weights.safetensors": safetensors.save(stored)})


def read_initial(run_folder: Location, identity: WeightsId) -> dict[str, Tensor]:
    """The weights of :func:`publish_initial`.

    Raises:
        UserError: they are not there.
        DamagedError: they do not match their manifest.
    """
    folder = run_folder / "initial" / identity.digest
    published = read_published(folder)
    if published is None:
        raise UserError(f"{folder} does not hold the initial weights: run the same command again")
    tensors: dict[str, Tensor] = safetensors.load(published.files["weights.safetensors"])
    return tensors
