"""Checkpoints: a trained network as safetensors and JSON, published whole or not at all.

``<folder>/best`` holds weights and metadata of the best epoch; ``<folder>/last`` the optimizer's state as well, to go
on from. Nothing is ever pickled.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from results.locations import Location
from study.data import DataInfo, DataSettings, resolve
from study.errors import UserError, short
from study.learning_curves import Epoch, history_from_json, history_to_json
from study.networks.heads import HeadSettings
from study.networks.multi_exit import MultiExitNetwork, NetworkSettings, build_network, matching_weights
from study.recipes import TrainingSettings
from study.storage import DamagedError, Published, content_hash, publish, read_published, set_aside
from study.strict_json import from_fields, parse_json
from study.training import TrainingState
from study.versions import versions

FORMAT_VERSION = 1
MadeBy: TypeAlias = tuple[tuple[int, Mapping[str, str]], ...]
"""First epoch and versions, of each run that trained a trial with other versions than the one before."""
MOST_PARAMETERS = 10**10
"""With gradients and Adam's state 160 GB: no device that trains one network holds more."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint says of itself; the weights are read by :func:`load_weights`."""

    network: NetworkSettings
    training: TrainingSettings
    data: DataInfo
    history: tuple[Epoch, ...]
    parent: str | None
    """Whose backbone the heads are on: ``<trial id>@<weights hash>``, or ``weights@<fingerprint>`` of a user's own."""
    versions: Mapping[str, str]
    """Of what trained the last epoch."""
    made_by: MadeBy
    weights_hash: str
    """sha256 of the weights file, shortened."""

    def build(self, weights: Mapping[str, Tensor], device: torch.device) -> MultiExitNetwork:
        """The network with these weights, in eval mode. Mode ``normal`` stores no heads: they are left untrained."""
        outline(self.network, self.data)
        network = new_network(self.network, self.data, self.training.seed)
        load_weights(network, weights, partial=self.training.mode == "normal")
        # Convolutions run in the layout that they were trained in, the faster one on CPUs and GPUs.
        return network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]


def made_by_now(earlier: MadeBy, epoch: int) -> MadeBy:
    """Which versions trained what, if those that run now go on with an epoch."""
    now = versions()
    return earlier if earlier and earlier[-1][1] == now else (*earlier, (epoch, now))


def new_network(settings: NetworkSettings, info: DataInfo, seed: int) -> MultiExitNetwork:
    """A network for a data set with weights drawn from a seed, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(
            settings, classes=len(info.class_names), image_size=info.image_size, channels=info.channels
        )


def check_network(settings: NetworkSettings, data: DataSettings) -> int:
    """Refuse what cannot be built, before any image is read.

    Returns:
        The network's number of exits.

    Raises:
        UserError: an unknown backbone, a size that it cannot take, or more parameters than can be trained.
    """
    assert data.image_size is not None and data.channels is not None, "the data settings are resolved"
    return _outline(settings, classes=2, image_size=data.image_size, channels=data.channels).exit_count


def outline(settings: NetworkSettings, info: DataInfo) -> MultiExitNetwork:
    """A network for a data set without its numbers: shapes only, which take neither memory nor time.

    Raises:
        UserError: as :func:`check_network`.
    """
    return _outline(settings, classes=len(info.class_names), image_size=info.image_size, channels=info.channels)


def _outline(settings: NetworkSettings, *, classes: int, image_size: int, channels: int) -> MultiExitNetwork:
    with torch.device("meta"):
        network = build_network(settings, classes=classes, image_size=image_size, channels=channels)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if parameters > MOST_PARAMETERS:
        raise UserError(
            f"{settings.backbone} of width {settings.width:g} with {settings.head.kind} heads has {parameters:.2g} "
            f"parameters, more than {MOST_PARAMETERS:.2g}: lower the width, or codewords and channels of the heads"
        )
    return network


def load_weights(network: MultiExitNetwork, weights: Mapping[str, Tensor], *, partial: bool = False) -> None:
    """Load a network's own weights; ``partial`` allows the exit heads to be absent.

    Raises:
        UserError: a tensor is missing, unexpected, or of another shape.
    """
    for name, tensor in network.state_dict().items():
        if name in weights and weights[name].shape != tensor.shape:
            shapes = f"{list(weights[name].shape)}, this network's is {list(tensor.shape)}"
            raise UserError(f"weights do not fit the network: {name} has shape {shapes}")
    missing, unexpected = network.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not (partial and name.startswith("heads."))]
    if missing or unexpected:
        odd = (missing or unexpected)[0]
        raise UserError(f"weights do not fit the network: {odd} is {'missing' if missing else 'unexpected'}")


def trial_id(network: NetworkSettings, training: TrainingSettings, data_digest: str, parent: str | None) -> str:
    """Name of a training run, known before it starts: a hash of all that decides its result but the epoch budget."""
    return content_hash(
        {
            "format": FORMAT_VERSION,
            "network": network.to_plain(),
            "training": training.to_plain(),
            "data": data_digest,
            "parent": parent,
        }
    )


def save(
    folder: Location,
    network: MultiExitNetwork,
    state: TrainingState,
    *,
    settings: NetworkSettings,
    training: TrainingSettings,
    info: DataInfo,
    parent: str | None,
    made_by: MadeBy = (),
) -> None:
    """Publish ``last``, and ``best`` before it if this epoch is the best.

    Args:
        folder: of the trial.
        network: holds the weights of the last epoch.
        state: history and optimizer.
        settings, training, info, parent: what the trial is.
        made_by: from :func:`made_by_now`; by default what runs now trained all epochs.
    """
    now = versions()
    tensors = {
        name: value.detach().cpu().contiguous()
        for name, value in network.state_dict().items()
        if not (training.mode == "normal" and name.startswith("heads."))
    }
    description = {
        "format_version": FORMAT_VERSION,
        "network": settings.to_plain(),
        "training": training.to_plain(),
        "data": asdict(info),
        "history": history_to_json(state.history),
        "parent": parent,
        "versions": now,
        "made_by": made_by or made_by_now((), 1),
    }
    files = {
        "weights.safetensors": safetensors.save(tensors),
        "checkpoint.json": json.dumps(description, indent=1, allow_nan=False).encode(),
    }
    if state.is_best:
        publish(folder / "best", files)
    optimizer = {name: value.detach().cpu().contiguous() for name, value in state.optimizer.items()}
    publish(folder / "last", {**files, "optimizer.safetensors": safetensors.save(optimizer)})


def read(folder: Location) -> tuple[Checkpoint, dict[str, Tensor], dict[str, Tensor]] | None:
    """Checkpoint, weights and optimizer tensors (empty in ``best``) of a published folder; None where it is empty.

    Raises:
        DamagedError: files that do not match their manifest, or that cannot be parsed.
    """
    published = read_published(folder)
    if published is None:
        return None
    checkpoint = _parse(folder, published)
    try:
        weights = safetensors.load(published.files["weights.safetensors"])
        optimizer = safetensors.load(published.files.get("optimizer.safetensors", safetensors.save({})))
    except SafetensorError as error:
        raise DamagedError(f"{folder} holds no readable tensors ({error})") from None
    return checkpoint, weights, optimizer


def read_description(folder: Location) -> Checkpoint | None:
    """The checkpoint without its tensors; of those only the sizes are compared with the manifest."""
    published = read_published(folder, names={"checkpoint.json"})
    return _parse(folder, published) if published else None


def read_best(checkpoints: Location, weights: str) -> tuple[Checkpoint, dict[str, Tensor]]:
    """Checkpoint and weights of ``<trial id>@<weights hash>``.

    Raises:
        UserError: the trial's ``best`` holds other weights, none, or damaged ones (the trial is then set aside, so that
            the next start trains it again).
    """
    identity, _, weights_hash = weights.partition("@")
    folder = checkpoints / identity
    try:
        found = read(folder / "best")
    except DamagedError as error:
        set_aside(folder, str(error))
        raise UserError(f"{error}; run the same command again to train trial {identity} anew") from None
    if found is None or found[0].weights_hash != weights_hash:
        raise UserError(f"{folder / 'best'} does not hold the weights {weights_hash}")
    return found[0], found[1]


def _parse(folder: Location, published: Published) -> Checkpoint:
    none = f"{folder} is no checkpoint of this program"
    try:
        raw: dict[str, Any] = parse_json(published.files["checkpoint.json"])
        version, weights_hash = raw["format_version"], published.digests["weights.safetensors"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{none} ({short(error)})") from None
    if version != FORMAT_VERSION:
        raise UserError(f"{folder} has checkpoint format {version!r}, but this program reads format {FORMAT_VERSION}")
    try:
        head = from_fields(HeadSettings, raw["network"]["head"])
        history = history_from_json(raw["history"])
        if not history:
            raise ValueError("it has no epoch")
        return from_fields(
            Checkpoint,
            {
                "network": from_fields(NetworkSettings, {**raw["network"], "head": head}),
                "training": from_fields(TrainingSettings, raw["training"]),
                "data": DataInfo.from_json(raw["data"]),
                "history": history,
                "parent": raw["parent"],
                "versions": raw["versions"],
                "made_by": tuple((epoch, made_by) for epoch, made_by in raw.get("made_by", [[1, raw["versions"]]])),
                "weights_hash": weights_hash[:16],
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{none} ({short(error, 200)})") from None


def load_pretrained(path: Path) -> tuple[Checkpoint | None, dict[str, Tensor]]:
    """Weights that a user points at: a checkpoint folder of this program, a ``.safetensors`` file, or a torch
    state_dict (read with ``weights_only=True``: nothing in it is executed).

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
            raise UserError(f"{path}: the checkpoint's data settings cannot be: {error}") from None
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
    except Exception:  # torch.load and safetensors raise many kinds for a file that is none
        raise UserError(
            f"{path} cannot be read as weights: only tensors are accepted, as a .safetensors file or a torch state_dict"
        ) from None
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise UserError(f"{path} is no state_dict: expected a mapping of names to tensors")
    tensors = cast(dict[str, Tensor], loaded)
    _refuse_no_weights(path, tensors)
    return None, tensors


def _refuse_no_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors of the right names and shapes may still be none that a network can compute with."""
    for name, tensor in tensors.items():
        if tensor.is_meta or tensor.layout is not torch.strided or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise UserError(f"{path}: {name} is no dense tensor with a number of its own in each place")
        if name.endswith(".num_batches_tracked"):  # a counter of batch norm, of whole numbers
            continue
        if not tensor.is_floating_point():
            raise UserError(f"{path}: {name} holds {str(tensor.dtype).removeprefix('torch.')}, not weights")
        if not tensor.float().isfinite().all():
            raise UserError(f"{path}: {name} holds a value that is not finite: its training diverged")


def build_pretrained(
    path: Path, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], device: torch.device
) -> MultiExitNetwork:
    """The network of a checkpoint that a user points at.

    Raises:
        UserError: it cannot be built, or the weights are not its own.
    """
    try:
        return checkpoint.build(tensors, device)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def check_fit(path: Path, tensors: Mapping[str, Tensor], settings: NetworkSettings, info: DataInfo) -> None:
    """Refuse weights that are of another backbone or other images, before anything is made from them.

    Raises:
        UserError: a tensor is missing, unexpected, or of another shape.
    """
    try:
        matching_weights(outline(settings, info), tensors)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def weights_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Names weights by their values, whatever file they came in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
