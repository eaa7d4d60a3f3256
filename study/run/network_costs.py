"""The costs of one loaded network: of a device table, of a measured profile, or at each frequency level."""

from __future__ import annotations

import math
from pathlib import Path

from search_spaces.settings import DEFAULT_DEVICE
from study.costs.costs import Costs, same_flops
from study.costs.measure.profile import check_same_device, read_profile
from study.costs.model.devices import LevelDevice, load_device
from study.costs.model.dvfs import LevelCosts, Rule, smallest_slack
from study.errors import UserError
from study.policies.base import Policy
from study.run.loaded_network import LoadedNetwork


def costs_of(loaded: LoadedNetwork, name_or_profile: str, *, other_device: bool) -> Costs:
    """The costs of a network: of a device table, by name or path, or of a measured profile (a ``.json`` file).

    Args:
        loaded: the network.
        name_or_profile: the device table or the profile.
        other_device: accept a profile of another device than the network's.

    Raises:
        UserError: there is no such table or profile, or the profile is of another device, network or precision.
    """
    network = loaded.runnable
    if not name_or_profile.endswith(".json"):
        return load_device(name_or_profile).costs(loaded.network, precision=network.precision, batch_size=1)
    profile = read_profile(Path(name_or_profile))
    if not other_device:
        try:
            check_same_device(profile, network.device)
        except UserError as error:
            raise UserError(f"{name_or_profile}: {error}") from None
    counted = load_device(DEFAULT_DEVICE).costs(loaded.network, precision=network.precision, batch_size=1)
    if profile.precision != network.precision:
        raise UserError(f"{name_or_profile} is a profile at {profile.precision}, not at {network.precision}")
    if not same_flops(profile.costs, counted):
        raise UserError(f"{name_or_profile} is a profile of another network: its parts count other FLOPs")
    return profile.costs


def check_cost_options(costs: str, rule: str | None, slack: float | None) -> None:
    """Check the options of costs before a network is loaded.

    Raises:
        UserError: there is no such table or profile, or slack, rule and table do not fit together.
        OSError: a profile cannot be read.
    """
    if slack is not None and (rule is None or not (math.isfinite(slack) and slack >= 0)):
        raise UserError(f"--dvfs-slack {slack:g}: expected a finite number from 0, beside --dvfs")
    if costs.endswith(".json"):
        read_profile(Path(costs))
        levelled = False
    else:
        levelled = isinstance(load_device(costs), LevelDevice)
    if rule is not None and not levelled:
        raise UserError(f"--dvfs: {costs} has no frequency levels: name a device table with levels, as jetson-tx2")


def check_slack(levels: LevelCosts, rule: Rule, policy: Policy, slack: float | None) -> None:
    """Refuse a slack with which the policy cannot keep the deadline, before anything runs.

    Raises:
        UserError: the slack is too small; the message names the smallest possible one.
    """
    smallest = smallest_slack(levels, policy, levels.exit_count)
    if rule == "deadline" and slack is not None and slack < smallest:
        raise UserError(f"--dvfs-slack {slack:g}: the worst walk of this policy needs at least {smallest:.6g}")


def levels_of(loaded: LoadedNetwork, device: str) -> LevelCosts:
    """The costs of a network at each frequency level of a modelled device.

    Raises:
        UserError: the device does not have the precision of the network.
    """
    table = load_device(device)
    assert isinstance(table, LevelDevice), "checked before the network was loaded"
    return table.level_costs(loaded.network, precision=loaded.runnable.precision, batch_size=1)
