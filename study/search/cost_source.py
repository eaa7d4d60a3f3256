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
from search_spaces.settings import DEFAULT_DEVICE
from search_spaces.spec import OperatingPointsSpec
from study.costs.costs import Costs, same_flops
from study.costs.flops import NetworkWork
from study.costs.measure import bench
from study.costs.measure.meters import find_meter
from study.costs.measure.profile import check_same_device, read_profile
from study.costs.model.devices import LevelDevice, load_device
from study.costs.model.dvfs import RULES, LevelCosts, smallest_slack
from study.errors import UserError
from study.networks.inference_network import RunnableNetwork
from study.networks.precisions import FORMATS, Precision
from study.networks.quantization import int8_execution
from study.policies.policies import POLICIES
from study.progress import Reporter
from study.search.traced_network import Frequencies, TracedNetwork

MEASURED = "measured"
"""The value of ``operating_points.costs`` for costs that are measured where the study runs."""
SUSPECT = 0.15
"""Relative error of the sum of a profile's parts above which a doubt is printed."""


def check_costs(
    points: OperatingPointsSpec,
    precisions: Sequence[Precision],
    device_here: torch.device,
    *,
    stored_will_do: bool = False,
) -> None:
    """Refuse costs that lack what the study asks for.

    Args:
        points: the costs, and the objectives, constraints and rules that need them.
        precisions: of the networks.
        device_here: the device that measured costs would be of.
        stored_will_do: profiles are stored already; this device need not be able to measure.

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
    device = None if points.costs == MEASURED else load_device(points.costs)
    if device is None and not stored_will_do:
        try:  # a counter that is there but cannot be read is told now, not after hours of training
            find_meter(device_here)
        except UserError as error:
            raise UserError(f"{error}; a study goes on with operating_points.costs set to a device table") from None
        if int8_execution(device_here) == "simulated" and any("int8" in precision for precision in precisions):
            raise UserError(
                f"operating_points.costs: int8 is only simulated on this {device_here.type}, so its time cannot be "
                "measured: leave int8 out of quantization, or set costs to a device table"
            )
    if device is not None:
        known = device.table.formats
        for precision in precisions:
            for number in (FORMATS[precision].backbone.name, FORMATS[precision].heads.name):
                if number not in known:
                    raise UserError(
                        f"operating_points.costs: device {device.table.name} has no {number}, which quantization "
                        f"{precision} needs: it has {', '.join(known)}"
                    )
    if rules != ("none",) and not isinstance(device, LevelDevice):
        raise UserError(
            f"operating_points.dvfs: {points.costs} has no frequency levels: set operating_points.costs to a device "
            "table with levels, as jetson-tx2"
        )
    timed = [name for name in (*points.objectives, *points.constraints.limits) if name.startswith("latency")]
    if timed and device is not None and not isinstance(device, LevelDevice):
        raise UserError(
            f"operating_points: {timed[0]} needs seconds, and {points.costs} knows none: set operating_points.costs to "
            f"{MEASURED}, or to a device table with levels, as jetson-tx2"
        )


def price(
    points: OperatingPointsSpec,
    work: NetworkWork,
    precision: Precision,
    measure_profile: Callable[[], None],
    profile_path: Location,
    *,
    device_here: torch.device,
    other_device: bool,
    reporter: Reporter,
) -> Costs:
    """The costs of a network at a precision.

    Args:
        points: names the costs and the batch size.
        work: counted, of the network.
        precision: of the network.
        measure_profile: measures the network and writes the profile; called where measured costs have no profile yet.
        profile_path: where the profile or the costs are kept.
        device_here: the device that runs.
        other_device: whether a measured profile may be of another device.
        reporter: told how well the parts of a new profile add up.

    Raises:
        UserError: a stored profile cannot be read, or is of another device or network.
    """
    table = load_device(DEFAULT_DEVICE if points.costs == MEASURED else points.costs)
    costs = table.costs(work, precision=precision, batch_size=points.batch_size)
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
    if not other_device:
        check_same_device(profile, device_here)
    if (profile.precision, profile.costs.batch_size) != (precision, points.batch_size) or not same_flops(
        profile.costs, costs
    ):
        raise UserError(f"{profile_path} is a profile of another network, precision or batch size: remove it")
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
    counted = load_device(DEFAULT_DEVICE).costs(work, precision=precision, batch_size=points.batch_size)
    profile = bench.measure_profile(network, counted=counted, batch_size=points.batch_size, meter=find_meter(device))
    write_atomic(profile_path, profile.to_json().encode())


def with_frequencies(points: OperatingPointsSpec, networks: Sequence[TracedNetwork]) -> list[TracedNetwork]:
    """The networks with the settings of frequency scaling: levels, slack and the common period.

    The slack ``auto`` is the smallest slack that every policy of the space can keep.
    """
    if points.dvfs.values == ("none",):
        return list(networks)
    device = load_device(points.costs)
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


def check_slack(points: OperatingPointsSpec, works: Iterable[NetworkWork], precisions: Sequence[Precision]) -> None:
    """Refuse a slack within which no policy of the search keeps its deadline on any of the networks.

    Raises:
        UserError: the slack is too small; the message names the smallest possible slack.
    """
    if points.dvfs_slack == "auto" or "deadline" not in points.dvfs.values:
        return
    device = load_device(points.costs)
    assert isinstance(device, LevelDevice), "checked before"
    least = min(
        min(_smallest_slacks(points, device.level_costs(work, precision=precision, batch_size=points.batch_size)))
        for work in works
        for precision in precisions
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
    policies = chain.from_iterable(POLICIES[str(name)].variants(values) for name in points.policy.values)
    return [smallest_slack(levels, policy, exits) for policy in policies]
