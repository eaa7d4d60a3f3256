"""Costs of the networks of a study: from a device table, or measured on the machine that runs the study."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch

from results.storage.atomic import write_atomic
from results.storage.paths import Location
from search_spaces.choices import Choice
from search_spaces.settings import DEFAULT_DEVICE, MEASURED
from search_spaces.spec import OperatingPointsSpec
from study.costs.costs import Costs, same_flops
from study.costs.flops import NetworkWork
from study.costs.measure import bench
from study.costs.measure.meters import find_meter
from study.costs.measure.profile import Profile, read_profile
from study.costs.model.devices import Device, LevelDevice, load_device, part_formats
from study.costs.model.dvfs import RULES, LevelCosts, smallest_slack
from study.errors import UserError
from study.networks.inference_network import RunnableNetwork
from study.networks.precisions import Precision
from study.networks.quantization import int8_execution
from study.policies.policies import POLICIES, Hierarchical
from study.progress import Reporter
from study.search.traced_network import Frequencies, TracedNetwork

SUSPECT = 0.15
"""Relative error of the sum of a profile's parts above which a doubt is printed."""


def cost_table(costs: str) -> Device:
    """The device table of some costs; for measured costs the table that counts their operations.

    Raises:
        UserError: there is no such device table.
    """
    return load_device(DEFAULT_DEVICE if costs == MEASURED else costs)


def check_costs(
    points: OperatingPointsSpec,
    precisions: Sequence[str],
    device_here: torch.device,
    *,
    stored_will_do: bool = False,
) -> Device:
    """Refuse costs that lack what the study asks for.

    Args:
        points: the costs, and the objectives, constraints and rules that need them.
        precisions: of the networks.
        device_here: the device that measured costs would be of.
        stored_will_do: profiles are stored already; this device need not be able to measure.

    Returns:
        The :func:`cost_table` of the study.

    Raises:
        UserError: there is no such device table, it lacks a precision, or it knows no time or no frequency levels and
            latency or frequency scaling is asked for; or costs are to be measured, and int8 is only simulated here or
            the energy counter cannot be read.
    """
    rules = points.dvfs.values
    for rule in rules:
        if rule not in ("none", *RULES):
            raise UserError(f"operating_points.dvfs: {rule!r} is unknown: use none, {', '.join(RULES)}")
    if "none" in rules and len(rules) > 1:
        raise UserError(
            "operating_points.dvfs: none leaves idle energy out, so it cannot stand beside rules; race_to_idle is f_max"
        )
    device, measured = cost_table(points.costs), points.costs == MEASURED
    if measured and not stored_will_do:
        try:  # a counter that is there but cannot be read is told now, not after hours of training
            find_meter(device_here)
        except UserError as error:
            raise UserError(f"{error}; a study goes on with operating_points.costs set to a device table") from None
        if int8_execution(device_here) == "simulated" and any("int8" in precision for precision in precisions):
            raise UserError(
                f"operating_points.costs: int8 is only simulated on this {device_here.type}, so its time cannot be "
                "measured: leave int8 out of quantization, or set costs to a device table"
            )
    for precision in precisions:
        try:
            part_formats(precision, device)
        except UserError as error:
            raise UserError(f"operating_points.costs: {error}") from None
    levelled = isinstance(device, LevelDevice)
    if rules != ("none",) and not levelled:
        raise UserError(
            f"operating_points.dvfs: {points.costs} has no frequency levels: set operating_points.costs to a device "
            "table with levels, as jetson-tx2"
        )
    timed = [name for name in (*points.objectives, *points.constraints.limits) if name.startswith("latency")]
    if timed and not (measured or levelled):
        raise UserError(
            f"operating_points: {timed[0]} needs seconds, and {points.costs} knows none: set operating_points.costs to "
            f"{MEASURED}, or to a device table with levels, as jetson-tx2"
        )
    return device


def price(
    points: OperatingPointsSpec,
    costs: Costs,
    precision: Precision,
    measure_profile: Callable[[], None],
    profile_path: Location,
    *,
    device_here: torch.device | None,
    reporter: Reporter,
) -> Costs:
    """The costs of a network at a precision: modelled, or measured.

    Args:
        points: says whether costs are measured.
        costs: of the network, by the :func:`cost_table` of the study.
        precision: of the network.
        measure_profile: measures the network and writes the profile; called where measured costs have no profile yet.
        profile_path: where the profile or the costs are kept.
        device_here: the device of which a measured profile must be; None: of any device.
        reporter: told how well the parts of a new profile add up.

    Raises:
        UserError: a stored profile cannot be read, or is of another device or network.
    """
    if points.costs != MEASURED:
        write_atomic(profile_path, costs.to_json().encode())
        return costs
    is_new = not profile_path.exists()
    if is_new:
        measure_profile()
    profile = read_profile(profile_path)
    if is_new:
        error = profile.relative_error_seconds
        doubt = "; was the machine busy?" if abs(error) > SUSPECT else ""
        reporter.line(f"measured {profile_path.stem}: sum of segments {error:+.1%} off an end-to-end run{doubt}")
    if profile.costs.batch_size != costs.batch_size:
        raise UserError(f"{profile_path} is a profile of another batch size: remove it")
    return profiled_costs(profile_path, profile, costs, precision, device_here)


def profiled_costs(
    path: Location, profile: Profile, counted: Costs, precision: Precision, device: torch.device | None
) -> Costs:
    """The costs of a measured profile that is of a network.

    Args:
        path: of the profile.
        profile: the content of the file.
        counted: the FLOPs of the network.
        precision: of the network.
        device: the device of which the profile must be; None: of any device.

    Raises:
        UserError: the profile is of another device, network or precision.
    """
    if device is not None:
        try:
            bench.check_same_device(profile, device)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    if profile.precision != precision:
        raise UserError(f"{path} is a profile at {profile.precision}, not at {precision}")
    if not same_flops(profile.costs, counted):
        raise UserError(f"{path} is a profile of another network: its parts count other FLOPs")
    return profile.costs


def measure(
    points: OperatingPointsSpec,
    work: NetworkWork,
    precision: Precision,
    network: RunnableNetwork,
    profile_path: Location,
    *,
    device: torch.device,
) -> None:
    """Measure what a network costs on this device, and write the profile where there is none.

    Args:
        points: names the batch size.
        work: counted, of the network.
        precision: of the network.
        network: on the device.
        profile_path: where the profile is written.
        device: the device of this machine that is measured.
    """
    if profile_path.exists():
        return
    counted = cost_table(MEASURED).costs(work, precision=precision, batch_size=points.batch_size)
    profile = bench.measure_profile(network, counted=counted, batch_size=points.batch_size, meter=find_meter(device))
    write_atomic(profile_path, profile.to_json().encode())


def with_frequencies(
    points: OperatingPointsSpec, device: Device, networks: Sequence[TracedNetwork]
) -> list[TracedNetwork]:
    """The networks with the settings of frequency scaling on a device: levels, slack and the common period.

    The slack ``auto`` is the smallest slack that every policy of the space can keep.
    """
    if points.dvfs.values == ("none",):
        return list(networks)
    assert isinstance(device, LevelDevice), "checked before the study started"
    plans = []
    for network in networks:
        assert network.work is not None, "the work is counted for every traced network"
        levels = device.level_costs(network.work, precision=network.precision, batch_size=points.batch_size)
        slack = points.dvfs_slack
        if slack == "auto":
            slack = max(_smallest_slacks(points, levels))
        # The clock returns to f_max after the answer and before the next image.
        period = (1 + float(slack)) * levels.costs[-1].classic("seconds") + levels.switch_seconds
        plans.append(Frequencies(levels=levels, slack=float(slack), period=period))
    period = max(plan.period for plan in plans)
    return [
        replace(network, frequencies=replace(plan, period=period))
        for network, plan in zip(networks, plans, strict=True)
    ]


def check_slack(points: OperatingPointsSpec, device: Device, works: Iterable[NetworkWork]) -> None:
    """Refuse a slack within which no policy of the search keeps its deadline on any of the networks.

    Raises:
        UserError: the slack is too small; the message names the smallest possible slack.
    """
    if points.dvfs_slack == "auto" or "deadline" not in points.dvfs.values:
        return
    assert isinstance(device, LevelDevice), "checked before"
    least = min(
        min(_smallest_slacks(points, device.level_costs(work, precision=str(name), batch_size=points.batch_size)))
        for work in works
        for name in points.quantization.values
    )
    if points.dvfs_slack < least:
        raise UserError(
            f"operating_points.dvfs_slack: with {points.dvfs_slack:g} no policy of this search keeps its deadline; the "
            f"least that one needs is {least:.4g}"
        )


def _smallest_slacks(points: OperatingPointsSpec, levels: LevelCosts) -> list[float]:
    """The smallest slack of some policies of the space: for each kind those that need the most and the least slack."""
    exits = levels.exit_count
    start, jump = points.start_layer, points.max_jump
    first, last = (int(start.smallest), int(start.largest)) if isinstance(start, Choice) else (1, exits)
    values: dict[str, Sequence[Any]] = {
        "beta": [1.0],
        "exit": range(1, exits + 1),
        "exits": [range(1, exits + 1), [exits]],  # the largest subset, and a smallest one
        "start_layer": [first, last],
        "max_jump": [int(jump.largest), int(jump.smallest)],
    }
    kinds = [POLICIES[str(name)] for name in points.policy.values]
    # A fitted policy has no settings before it is fitted. Without engine its slack is that of the exits it tries.
    policies = chain.from_iterable((Hierarchical if kind.fitted else kind).variants(values) for kind in kinds)
    return [smallest_slack(levels, policy, exits) for policy in policies]
