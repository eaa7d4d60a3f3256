"""Weights that a user brings: a checkpoint of this program, a safetensors file or a torch state_dict."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import torch as safetensors
from torch import Tensor

from study.checkpoints.description import Checkpoint
from study.checkpoints.tensors import build_trained, read
from study.data.settings import DataInfo, DataSettings, resolve
from study.errors import UserError
from study.networks.construction import meta_network
from study.networks.multi_exit import MultiExitNetwork, matching_weights
from study.networks.settings import NetworkSettings
from study.storage.strict_json import from_fields

_KEYS = ("state_dict", "model_state_dict", "model")
"""Under which training programs save a state_dict beside other things."""


def load_pretrained(path: Path) -> tuple[Checkpoint | None, dict[str, Tensor]]:
    """Read a checkpoint folder of this program, a ``.safetensors`` file, or a torch state_dict.

    A state_dict, alone or under a usual key, is read with ``weights_only=True``: no code in the file is executed.

    Returns:
        The checkpoint (None for a bare file) and the tensors.

    Raises:
        UserError: nothing is there, or it is none of these.
    """
    if path.is_dir():
        folder = path / "best" if (path / "best").is_dir() else path
        found = read(folder)
        if found is None:
            raise UserError(f"{path} holds no checkpoint: expected {folder / 'manifest.json'}")
        try:
            resolve(from_fields(DataSettings, found[0].data.settings))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: the data settings of the checkpoint are wrong: {error}") from None
        _refuse_no_weights(path, found[1])
        return found[0], found[1]
    if not path.is_file():
        problem = "is no regular file" if path.exists() else "does not exist"
        raise UserError(f"{path} {problem}: give a checkpoint folder, a .safetensors file or a torch state_dict")
    try:
        if path.suffix == ".safetensors":
            loaded = safetensors.load_file(path)
        else:
            with warnings.catch_warnings(action="ignore"):
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch.load and safetensors raise many classes of errors for other files
        raise UserError(
            f"{path} cannot be read as weights: only tensors are accepted, as a .safetensors file or a torch state_dict"
        ) from None
    for key in _KEYS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        keys = f"; it holds {', '.join(str(key)[:40] for key in list(loaded)[:6])}" if isinstance(loaded, dict) else ""
        raise UserError(f"{path} is no state_dict: expected a mapping of names to tensors{keys}")
    tensors = cast(dict[str, Tensor], loaded)
    _refuse_no_weights(path, tensors)
    return None, tensors


def _refuse_no_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are no weights: sparse, without storage, of whole numbers, or not finite."""
    for name, tensor in tensors.items():
        if tensor.is_meta or tensor.layout is not torch.strided or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise UserError(f"{path}: {name} is no dense tensor: two places share a number, or have none")
        if name.endswith(".num_batches_tracked"):  # an integer counter of batch norm
            continue
        if not tensor.is_floating_point():
            raise UserError(f"{path}: {name} holds {str(tensor.dtype).removeprefix('torch.')}, not weights")
        if not tensor.float().isfinite().all():
            raise UserError(f"{path}: {name} holds a value that is not finite: its training diverged")


def build_pretrained(
    path: Path, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], device: torch.device
) -> MultiExitNetwork:
    """The network of a checkpoint from :func:`load_pretrained`, in eval mode.

    Raises:
        UserError: it cannot be built, or the weights are not its own.
    """
    try:
        return build_trained(checkpoint, tensors, device)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def check_fit(path: Path, tensors: Mapping[str, Tensor], settings: NetworkSettings, info: DataInfo) -> None:
    """Refuse weights of another backbone, or for images of another size, number of channels or classes.

    Raises:
        UserError: a tensor is missing, unexpected, or of another shape.
    """
    try:
        matching_weights(meta_network(settings, info), tensors)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
