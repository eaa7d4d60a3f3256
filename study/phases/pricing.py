"""Where a study's costs come from: a device table, or measurements on the machine that runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from results.files import write_atomic
from search_spaces.choices import Choice
from search_spaces.spec import OperatingPointsSpec
from study.costs.device_models import FALLBACK, LevelDevice, load_device
from study.costs.dvfs import RULES, smallest_slack
from study.costs.flops import NetworkWork
from study.costs.measure import measure_profile
from study.costs.measured_profile import Profile, check_same_device, read_profile
from study.costs.meters import find_meter
from study.costs.profile import Costs
from study.errors import UserError
from study.networks.runnable import RunnableNetwork
from study.phases.candidates import Candidate, Frequencies
from study.policies import Predictive
from study.precisions import FORMATS, Precision

MEASURED = "measured"
"""The name of the costs that are measured where the study runs."""


def check_costs(points: OperatingPointsSpec, precisions: Sequence[Precision]) -> None:
    """Refuse costs that cannot give what the study asks of them.

    Raises:
        UserError: there is no such device table, it lacks a precision, or it knows no time or no frequency levels and
            latency or frequency scaling is asked for.
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
    if device is not None:
        known = device.table.formats
        for precision in precisions:
            for number in (FORMATS[precision].backbone.name, FORMATS[precision].heads.name):
                if number not in known:
                    raise UserError(
                        f"operating_points.costs: device {device.name} has no {number}, which quantization {precision} "
                        f"needs: it has {', '.join(known)}"
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
    network: Callable[[], RunnableNetwork],
    profile_path: Path,
    *,
    other_device: bool,
) -> Costs:
    """The costs of a network at a precision.

    Args:
        points: names the costs and the batch size.
        work: counted, of the network.
        precision: of the network.
        network: called only to measure it.
        profile_path: where the profile or costs are kept; a measured one that is there is read.
        other_device: whether it may be of another device than this one.

    Raises:
        UserError: a stored profile cannot be read, or is of another device.
    """
    if points.costs != MEASURED:
        costs = load_device(points.costs).costs(work, precision=precision, batch_size=points.batch_size)
        write_atomic(profile_path, costs.to_json().encode())
        return costs
    if profile_path.exists():
        profile = read_profile(profile_path)
        if not other_device:
            check_same_device(profile, network().device)
        return profile.costs
    return measure_costs(work, precision, network(), points.batch_size, profile_path).costs


def measure_costs(
    work: NetworkWork, precision: Precision, network: RunnableNetwork, batch_size: int, path: Path
) -> Profile:
    """Measure a network on its device and keep the profile; without a meter, joules are modelled."""
    counted = load_device(FALLBACK).costs(work, precision=precision, batch_size=batch_size)
    profile = measure_profile(network, counted=counted, batch_size=batch_size, meter=find_meter(network.device))
    write_atomic(path, profile.to_json().encode())
    return profile


def with_frequencies(points: OperatingPointsSpec, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates with the levels, the slack and the common period that the simulation needs.

    The slack ``auto`` is the smallest that every policy of the space can keep.
    """
    if points.dvfs.values == ("none",):
        return list(candidates)
    device = load_device(points.costs)
    assert isinstance(device, LevelDevice), "checked before the study started"
    start = points.start_layer.smallest if isinstance(points.start_layer, Choice) else 1
    plans = []
    for candidate in candidates:
        assert candidate.work is not None, "the work is counted for every traced network"
        levels = device.level_costs(candidate.work, precision=candidate.precision, batch_size=points.batch_size)
        slack = points.dvfs_slack
        if slack == "auto":
            policies = (
                Predictive(1.0, int(start), int(points.max_jump.largest), overshoot)
                for overshoot in ("last_exit", "classifier")
            )
            slack = max(smallest_slack(levels, policy, levels.exit_count) for policy in policies)
        plans.append(Frequencies(levels=levels, slack=float(slack), period=_deadline(levels.costs[-1], float(slack))))
    period = max(plan.period for plan in plans)
    return [
        replace(candidate, frequencies=replace(plan, period=period))
        for candidate, plan in zip(candidates, plans, strict=True)
    ]


def _deadline(at_full_speed: Costs, slack: float) -> float:
    return (1 + slack) * at_full_speed.classic("seconds")
