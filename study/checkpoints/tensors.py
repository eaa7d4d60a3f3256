"""Writing and reading the tensors of checkpoints, as safetensors files. Nothing is pickled.

The folders and files are described in :mod:`study.checkpoints.description`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from results.storage.paths import Location
from study.checkpoints.description import FORMAT_VERSION, Checkpoint, MadeBy, WeightsId, made_by_now, parse
from study.data.settings import DataInfo
from study.errors import UserError
from study.networks.construction import meta_network, new_network
from study.networks.multi_exit import MultiExitNetwork
from study.networks.settings import NetworkSettings
from study.networks.weight_names import refuse_misfit
from study.storage.publish import (
    DamagedError,
    publish,
    read_published,
    set_aside,
)
from study.storage.strict_json import dumps
from study.storage.versions import versions
from study.training.loop import TrainingState
from study.training.settings import TrainingSettings


def load_best(checkpoints: Location, weights: WeightsId, device: torch.device) -> tuple[MultiExitNetwork, DataInfo]:
    """The network of a trial's best checkpoint, in eval mode; ``weights`` and errors as in :func:`read_best`."""
    checkpoint, tensors = read_best(checkpoints, weights)
    return build_trained(checkpoint, tensors, device), checkpoint.data


def load_weights(network: MultiExitNetwork, weights: Mapping[str, Tensor], *, partial: bool = False) -> None:
    """Load the weights of a network; with ``partial`` the weights of exit heads may be missing.

    Raises:
        UserError: a tensor is missing, unexpected, or of another shape.
    """
    own = network.state_dict()
    refuse_misfit("network", own, weights, may_lack=lambda name: partial and name.startswith("heads."))
    network.load_state_dict(weights, strict=False)


def save(
    folder: Location,
    network: MultiExitNetwork,
    state: TrainingState,
    *,
    settings: NetworkSettings,
    training: TrainingSettings,
    info: DataInfo,
    parent: WeightsId | None,
    made_by: MadeBy = (),
) -> None:
    """Publish ``last``; publish ``best`` first where this epoch is the best.

    Args:
        folder: of the trial.
        network: holds the weights of the last epoch.
        state: history and optimizer.
        settings, training, info, parent: what the trial is.
        made_by: from :func:`made_by_now`; by default the present versions trained all epochs.
    """
    now = versions()
    tensors = {
        name: value.detach().cpu().contiguous()
        for name, value in network.state_dict().items()
        if not (training.mode == "normal" and name.startswith("heads."))
    }
    description = {
        "format_version": FORMAT_VERSION,
        "network": asdict(settings),
        "training": asdict(training),
        "data": asdict(info),
        "history": [asdict(row) for row in state.history],
        "parent": parent,
        "versions": now,
        "made_by": made_by or made_by_now((), 1),
    }
    files = {
        "weights.safetensors": safetensors.save(tensors),
        "checkpoint.json": dumps(description, indent=1).encode(),
    }
    if state.is_best:
        publish(folder / "best", files)
    optimizer = {name: value.detach().cpu().contiguous() for name, value in state.optimizer.items()}
    publish(folder / "last", {**files, "optimizer.safetensors": safetensors.save(optimizer)})


def read(folder: Location) -> tuple[Checkpoint, dict[str, Tensor], dict[str, Tensor]] | None:
    """Checkpoint, weights and optimizer tensors (empty in ``best``) of a published folder; None where it is empty.

    Raises:
        DamagedError: files do not match the manifest, or cannot be parsed.
    """
    published = read_published(folder)
    if published is None:
        return None
    checkpoint = parse(folder, published)
    try:
        weights = safetensors.load(published.files["weights.safetensors"])
        optimizer = safetensors.load(published.files.get("optimizer.safetensors", safetensors.save({})))
    except SafetensorError as error:
        raise DamagedError(f"{folder} holds no readable tensors ({error})") from None
    return checkpoint, weights, optimizer


def read_best(checkpoints: Location, weights: WeightsId) -> tuple[Checkpoint, dict[str, Tensor]]:
    """The checkpoint that holds these weights, and the weights.

    Raises:
        UserError: the trial's ``best`` holds other weights, none, or damaged ones (the trial is then set aside, so that
            the next start trains it again).
    """
    folder = checkpoints / weights.trial_id
    try:
        found = read(folder / "best")
    except DamagedError as error:
        set_aside(folder, str(error))
        raise UserError(f"{error}; run the same command again to train trial {weights.trial_id} anew") from None
    if found is None or found[0].weights_hash != weights.digest:
        raise UserError(f"{folder / 'best'} does not hold the weights {weights.digest}")
    return found[0], found[1]


def weights_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A digest of the values of weights; the file that held the weights does not matter."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def build_trained(checkpoint: Checkpoint, weights: Mapping[str, Tensor], device: torch.device) -> MultiExitNetwork:
    """The network of a checkpoint with these weights, in eval mode.

    A checkpoint of the mode ``normal`` holds no heads: the heads of the network stay untrained.
    """
    meta_network(checkpoint.network, checkpoint.data)
    network = new_network(checkpoint.network, checkpoint.data, checkpoint.training.seed)
    load_weights(network, weights, partial=checkpoint.training.mode == "normal")
    # The memory layout of training: convolutions are faster in this layout, on CPUs and on GPUs.
    return network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]
