"""Networks of a run folder built anew from their settings, without their weights, and what they consist of."""

from __future__ import annotations

import torch

from results.parts import read_or_empty
from results.storage.paths import Location
from search_spaces.spec import DataSpec
from study.costs.flops import NetworkWork, count_work
from study.data.settings import DATASETS
from study.errors import UserError
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.registry import native_image_size
from study.networks.settings import NetworkSettings
from study.storage.strict_json import parse_json


def stored_work(folder: Location, data: DataSpec, trial_id: str, classes: int) -> NetworkWork:
    """What the network of a trial consists of, as :func:`untrained_network`."""
    return count_work(untrained_network(folder, data, trial_id, classes, device="meta"))  # shapes suffice


def untrained_network(
    folder: Location, data: DataSpec, trial_id: str, classes: int, *, device: str
) -> MultiExitNetwork:
    """The network of a trial with random weights, from the settings in the table ``trials``.

    Raises:
        UserError: they are not there, or are of no network that this program builds.
    """
    where = folder / "tables" / "trials"
    trials = read_or_empty(where.parent, "trials")
    rows = trials[trials["trial_id"] == trial_id]
    if rows.empty:
        raise UserError(f"{where} does not tell what network {trial_id} is, which memory and other costs depend on")
    try:
        # A copy to share does not know the folder of its images.
        asked, usual = data.model_dump(), DATASETS[rows["data"].iloc[0]]
        settings = NetworkSettings.from_plain(parse_json(rows["settings"].iloc[0])["network"])
        with torch.device(device):
            return build_network(
                settings,
                classes=classes,
                image_size=asked["image_size"] or native_image_size(settings.backbone) or usual.image_size,
                channels=asked["channels"] or usual.channels,
            )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: the settings of {trial_id} are of no network known here: {error}") from None
