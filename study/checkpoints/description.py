"""The description of a checkpoint: what was trained, how and by which versions. Reading one needs no torch.

A checkpoint is a published folder of safetensors and JSON files. ``<trial id>/best`` holds the weights and the
description of the best epoch. ``<trial id>/last`` holds those of the last epoch, and the state of the optimizer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from results.storage.paths import Location
from search_spaces.settings import identity
from search_spaces.words import short
from study.data.settings import DataInfo
from study.errors import UserError
from study.networks.settings import NetworkSettings
from study.storage.publish import DamagedError, Published, content_hash, read_published
from study.storage.strict_json import from_fields, parse_json
from study.storage.versions import versions
from study.training.learning_curves import Epoch, history_from_json
from study.training.settings import TrainingSettings

FORMAT_VERSION = 1
MadeBy: TypeAlias = tuple[tuple[int, Mapping[str, str]], ...]
"""First epoch and versions of each run that trained a trial with other versions than the run before."""


class WeightsId(str):
    """The name of a network's weights: the trial that trained them and the digest of their file.

    The text is ``<trial id>@<digest>``. It stands in tables, in trace and checkpoint descriptions, and in the hash that
    names a trial of exit heads. Weights from outside a run folder have the trial id ``weights``.
    """

    __slots__ = ()

    def __new__(cls, trial_id: str, digest: str) -> WeightsId:
        """The identifier of the weights with this digest."""
        return super().__new__(cls, f"{trial_id}@{digest}")

    def __reduce__(self) -> tuple[type[WeightsId], tuple[str, str]]:
        return WeightsId, (self.trial_id, self.digest)

    @classmethod
    def parse(cls, text: str) -> WeightsId:
        """The identifier that a text holds."""
        trial_id, _, digest = text.partition("@")
        return cls(trial_id, digest)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        """Let pydantic check fields of this type."""
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)

    @property
    def trial_id(self) -> str:
        """The trial that trained the weights."""
        return self.partition("@")[0]

    @property
    def digest(self) -> str:
        """sha256 of the weights file, shortened."""
        return self.partition("@")[2]

    @property
    def file_stem(self) -> str:
        """The identifier as part of a file name."""
        return self.replace("@", "-")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The description of a checkpoint. :mod:`study.checkpoints.tensors` reads the weights."""

    network: NetworkSettings
    training: TrainingSettings
    data: DataInfo
    history: tuple[Epoch, ...]
    parent: WeightsId | None
    """The backbone that the heads were trained on."""
    versions: Mapping[str, str]
    """The versions that trained the last epoch."""
    made_by: MadeBy
    weights_hash: str
    """The digest of the weights file, as in :class:`WeightsId`."""


def made_by_now(earlier: MadeBy, epoch: int, **machine: str) -> MadeBy:
    """The history of versions and machines after the present ones train from ``epoch`` on.

    Args:
        earlier: the history of the epochs before.
        epoch: the first one that is trained now.
        machine: ``device`` and ``threads`` of the training.
    """
    now = {**versions(), **machine}
    return earlier if earlier and earlier[-1][1] == now else (*earlier, (epoch, now))


def trial_id(network: NetworkSettings, training: TrainingSettings, data_digest: str, parent: WeightsId | None) -> str:
    """The name of a trial, known before the trial starts: a hash of all that decides its result.

    The number of epochs is not part of the hash: a trial keeps its name when it is trained for longer.
    """
    return content_hash(
        {
            "format": FORMAT_VERSION,
            "network": identity(network),
            "training": identity(training),
            "data": data_digest,
            "parent": parent,
        }
    )


def is_trial_id(name: str) -> bool:
    """Whether :func:`trial_id` gives such names: a synchronised or damaged folder has another name."""
    return re.fullmatch("[0-9a-f]{12}", name) is not None


def read_description(folder: Location) -> Checkpoint | None:
    """The description of a checkpoint; None where nothing was published. Of the tensors only the sizes are checked.

    Raises:
        DamagedError: files do not match their manifest, or the folder holds no checkpoint.
        UserError: the checkpoint has another format.
    """
    published = read_published(folder, names={"checkpoint.json"})
    return parse(folder, published) if published else None


def parse(folder: Location, published: Published) -> Checkpoint:
    """The description in a published folder.

    Raises:
        DamagedError: the folder holds no checkpoint.
        UserError: the checkpoint has another format.
    """
    none = f"{folder} is no checkpoint of this program"
    try:
        raw: dict[str, Any] = parse_json(published.files["checkpoint.json"])
        version, weights_hash = raw["format_version"], published.digests["weights.safetensors"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{none} ({short(error)})") from None
    if version != FORMAT_VERSION:
        raise UserError(f"{folder} has checkpoint format {version!r}, but this program reads format {FORMAT_VERSION}")
    try:
        history = history_from_json(raw["history"])
        if not history:
            raise ValueError("it has no epoch")
        return from_fields(
            Checkpoint,
            {
                "network": NetworkSettings.from_plain(raw["network"]),
                "training": from_fields(TrainingSettings, raw["training"]),
                "data": DataInfo.from_json(raw["data"]),
                "history": history,
                "parent": None if raw["parent"] is None else WeightsId.parse(raw["parent"]),
                "versions": raw["versions"],
                "made_by": tuple((epoch, made_by) for epoch, made_by in raw["made_by"]),
                "weights_hash": weights_hash[:16],
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{none} ({short(error, 200)})") from None
