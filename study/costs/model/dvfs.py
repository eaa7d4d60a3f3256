"""Frequency scaling per image: a simulation from walks, over the frequency levels of a device.

After a failed exit, the prediction engine predicts the distance of the next exit. The frequency of the next segments
follows from the distance (Li et al., AAAI 2023). The simulation changes no clock: levels, costs and the latency of a
switch come from a :class:`LevelCosts`, of a modelled device or of measurements at each level.

A walk is a sequence of *legs*. A leg runs from behind a tried exit (or from the input) to the next tried exit: its
segments, the head of this exit, and the engine's steps behind this head. A leg runs at one level: the level of the next
leg is known only after the engine's steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike

from study.arrays import Floats, Integers
from study.costs.costs import Costs
from study.errors import UserError
from study.policies.base import Policy
from study.policies.replay import Walk

Rule = Literal["race_to_idle", "paper", "deadline"]
RULES: tuple[Rule, ...] = get_args(Rule)

ROUNDING = 1e-12
"""Relative tolerance; sums of the same seconds in another order differ by less."""


@dataclass(frozen=True, eq=False)
class LevelCosts:
    """Costs of a network at each of L frequency levels of one device."""

    megahertz: ArrayLike
    """``[L]``, rising; the last entry is f_max."""
    costs: tuple[Costs, ...]
    """L costs with seconds and energies, of a busy device."""
    idle_watts: float
    """Power of the device while it waits."""
    switch_seconds: float
    """Delay of an image by a change of the level."""

    @property
    def exit_count(self) -> int:
        """E."""
        return self.costs[0].exit_count

    @property
    def busy_watts(self) -> Floats:
        """``[L]``, the mean power of the whole network at each level."""
        return np.array([costs.classic("energy") / costs.classic("seconds") for costs in self.costs])


@dataclass(frozen=True, eq=False)
class Simulated:
    """Seconds and joules of N samples under a rule."""

    seconds: Floats
    """``[N]``, up to the answer."""
    joules: Floats
    """``[N]``, over the whole period: busy, switching and idle."""
    switches: Integers
    """``[N]``: changes of the level, including the change back to f_max behind the answer."""
    smallest_slack: float
    """The smallest slack that the rule ``deadline`` accepts."""


def smallest_slack(levels: LevelCosts, policy: Policy, exit_count: int) -> float:
    """The share of the classic network's time at f_max by which a policy's worst walk may exceed it; at least 0.

    The worst walk runs at f_max, tries every exit that the policy may try, stops at no exit and runs K_max engine steps
    behind each exit. (With a prediction engine, this is the walk of jumps of 1: any other walk omits heads.)

    Raises:
        UserError: the network has another number of exits than the levels, or lacks an exit of the policy.
    """
    if exit_count != levels.exit_count:
        raise UserError(f"levels: costs of {levels.exit_count} exits do not fit a network with {exit_count}")
    worst = worst_seconds(_paid_by(policy, levels).costs[-1], policy)[0]
    exceeding = float(worst) / levels.costs[-1].classic("seconds") - 1.0
    return exceeding if exceeding > ROUNDING else 0.0


def _paid_by(policy: Policy, levels: LevelCosts) -> LevelCosts:
    """The costs of a policy's walks: a policy that tries no exit runs the network without the heads of a cascade."""
    if not levels.costs[-1].cascaded or policy.heads_it_may_run(levels.exit_count).any():
        return levels
    return replace(levels, costs=tuple(replace(costs, cascaded=False) for costs in levels.costs))


def worst_seconds(costs: Costs, policy: Policy) -> Floats:
    """``[E+2]``: seconds of the longest walk behind a failed exit l = 0..E+1; 0 is the input, E + 1 the end."""
    segments, heads, step = costs.parts("seconds")
    exits = costs.exit_count
    steps = np.append(np.full(exits - 1, policy.max_jump), 0)  # no jump is possible behind the last exit
    worst = segments + np.append(policy.heads_it_may_run(exits) * (heads + steps * step), 0.0)
    worst[policy.depth(exits) :] = 0.0
    return np.append(np.cumsum(worst[::-1])[::-1], 0.0)


def simulate(walk: Walk, levels: LevelCosts, *, rule: Rule, policy: Policy, slack: float, period: float) -> Simulated:
    """Latency and energy of each sample of a walk when the frequency follows a rule.

    Each sample starts at f_max.

    - ``race_to_idle``: all legs run at f_max.
    - ``paper``: a leg behind a failed exit l with a predicted jump of k runs at f_max * min(1, k / max(1, E - l)),
      rounded to the nearest level, ties upwards. All other legs run at f_max.
    - ``deadline``: a leg behind a prediction runs at the lowest level that keeps the deadline, (1 + slack) x the
      classic network's time at f_max, even if the predicted exit fails, the engine needs K_max steps there, and the
      worst walk follows at f_max. Such a level always exists: with ``slack >= smallest_slack`` the worst walk from the
      input at f_max keeps the deadline, and each leg leaves enough time for the worst walk behind it. The leg from exit
      E to the classifier has a known end and is treated in the same way, as is the only leg of a policy that knows its
      end (``Policy.knows_its_end``). Other policies that predict nothing stay at f_max.

    A switch takes ``switch_seconds`` at the power of the higher of the two levels. The switch back to f_max, for the
    next image, happens behind the answer: it costs energy, but no latency.

    Energy is that of a whole *period*, in which the device idles when it is not busy. Without a period, idling would be
    free, and a fast level would look better than it is. All points of one front need the same period.

    Args:
        walk: of N samples, by ``policy``.
        slack: of the deadline, as a share of the classic network's time at f_max.
        period: seconds from one image to the next, at least the deadline.

    Raises:
        UserError: the slack is smaller than the smallest one, the period shorter than the deadline, or walk, policy and
            levels do not belong together.
    """
    if rule not in RULES:
        raise UserError(f"frequency rule {rule!r} is unknown: use one of {', '.join(RULES)}")
    if not (math.isfinite(slack) and slack >= 0):
        raise UserError(f"slack is {slack}, but must be finite and >= 0")
    exit_count = walk.tried.shape[1]
    smallest = smallest_slack(levels, policy, exit_count)
    deadline = (1 + slack) * levels.costs[-1].classic("seconds")
    if rule == "deadline" and slack < smallest:
        raise UserError(f"slack is {slack}, but the worst walk of this policy needs at least {smallest!r}")
    if not (math.isfinite(period) and period >= deadline * (1 - ROUNDING)):
        raise UserError(f"period is {period} s, but must be finite and at least the deadline of {deadline!r} s")
    foreign = (walk.tried & ~policy.heads_it_may_run(exit_count)).any()
    if foreign or (walk.engine_steps > policy.max_jump * exit_count).any():
        raise UserError(f"this walk is not one of {policy}")

    levels = _paid_by(policy, levels)
    seconds_of, joules_of = _cost_of_legs(levels, "seconds"), _cost_of_legs(levels, "energy")
    # Nothing is predicted before the first exit: legs from the input run at f_max, except towards a known end.
    known_end, top = rule == "deadline" and policy.knows_its_end, len(levels.costs) - 1
    scaled = known_end or (policy.predicts and rule != "race_to_idle")
    worst_after = worst_seconds(levels.costs[-1], policy)
    in_time = partial(_lowest_in_time, levels, policy, seconds_of, worst_after, deadline)
    watts, samples = levels.busy_watts, len(walk.exit_index)
    start, level = np.zeros(samples, dtype=np.int64), np.full(samples, top, dtype=np.int64)
    elapsed, joules, switches = np.zeros(samples), np.zeros(samples), np.zeros(samples, dtype=np.int64)
    for end in range(1, exit_count + 2):
        here = np.flatnonzero(walk.tried[:, end - 1] if end <= exit_count else walk.exit_index == end)
        before, origin = level[here], start[here]
        chosen = np.full(len(here), top, dtype=np.int64)
        if scaled:
            aimed = in_time(origin, end, before, elapsed[here]) if rule == "deadline" else _paper(levels, origin, end)
            chosen = aimed if known_end else np.where(origin == 0, top, aimed)
        steps, switched = _engine_steps(walk, here, end, policy), chosen != before
        power = watts[np.maximum(chosen, before)]
        elapsed[here] += switched * levels.switch_seconds + seconds_of(chosen, origin, end, steps)
        joules[here] += switched * levels.switch_seconds * power + joules_of(chosen, origin, end, steps)
        switches[here] += switched
        start[here], level[here] = end, chosen

    back = level != top
    idle = np.maximum(0.0, period - elapsed - back * levels.switch_seconds)
    joules += back * levels.switch_seconds * watts[top] + idle * levels.idle_watts
    return Simulated(elapsed, joules, switches + back, smallest)


_CostOfLegs: TypeAlias = Callable[[Integers, Integers, int, Integers | int], Floats]
"""Cost of legs at levels, from behind the exits ``start`` (0: the input) to the exit ``end``, with engine steps behind
``end``. All but ``end`` are broadcast."""


def _cost_of_legs(levels: LevelCosts, measure: str) -> _CostOfLegs:
    parts = [costs.parts(measure) for costs in levels.costs]
    up_to = np.array([[0.0, *segments.cumsum()] for segments, _, _ in parts])  # [L, E+2]: all segments up to an exit
    head = np.array([[0.0, *heads, 0.0] for _, heads, _ in parts])
    engine_step = np.array([step for _, _, step in parts])

    def cost(level: Integers, start: Integers, end: int, engine_steps: Integers | int) -> Floats:
        segments = up_to[level, end] - up_to[level, start]
        return np.asarray(segments + head[level, end] + engine_steps * engine_step[level])

    return cost


def _paper(levels: LevelCosts, start: Integers, end: int) -> Integers:
    """``[B]``: the levels of f_max * min(1, k / max(1, E - l)).

    k is here the distance from ``start`` to ``end``. Distance and jump differ only if the jump overshoots; both then
    give f_max or more, and f_max is the nearest level.
    """
    return nearest_level(levels, end - start, np.maximum(1, levels.exit_count - start))


def _lowest_in_time(
    levels: LevelCosts,
    policy: Policy,
    seconds_of: _CostOfLegs,
    worst_after: Floats,
    deadline: float,
    start: Integers,
    end: int,
    level: Integers,
    elapsed: Floats,
) -> Integers:
    """``[B]``: the lowest level at which a leg leaves time for the worst walk behind it.

    The samples are at ``level`` after ``elapsed`` seconds.
    """
    every, exits = np.arange(len(levels.costs)), levels.exit_count
    leg = seconds_of(every, start[:, None], end, policy.max_jump if end < exits else 0)
    needed = elapsed[:, None] + (every != level[:, None]) * levels.switch_seconds + leg
    if end < policy.depth(exits):
        needed += worst_after[end] + (every != every[-1]) * levels.switch_seconds
    in_time = needed <= deadline * (1 + ROUNDING)
    in_time[:, -1] = True  # f_max is in time; rounding may say otherwise
    return np.asarray(in_time.argmax(axis=1), dtype=np.int64)


def nearest_level(levels: LevelCosts, numerator: ArrayLike, denominator: ArrayLike) -> Integers:
    """``[B]``: the levels nearest to f_max * numerator / denominator (each ``[B]``); of a tie, the upper level."""
    megahertz = np.asarray(levels.megahertz)
    wanted = megahertz[-1] * np.asarray(numerator) / np.asarray(denominator)
    distance = np.abs(megahertz - wanted[:, None])
    nearest = distance <= distance.min(axis=1, keepdims=True) + ROUNDING * megahertz[-1]
    return np.asarray(len(megahertz) - 1 - nearest[:, ::-1].argmax(axis=1), dtype=np.int64)


def _engine_steps(walk: Walk, samples: Integers, exit: int, policy: Policy) -> Integers:
    """``[B]``: engine steps behind an exit, which are the predicted jump; 0 for a sample that stopped.

    A jump is the difference of two exits, unless the jump may have overshot. The last jump of a walk then is the sum of
    all engine steps minus the earlier jumps, which add up to the distance from the first exit. For a sample that
    stopped, this difference is 0.
    """
    exit_count = walk.tried.shape[1]
    if not policy.predicts or exit >= exit_count:
        return np.zeros(len(samples), dtype=np.int64)
    ahead = walk.tried[samples, exit:].copy()
    ahead[:, -1] = True
    jump = ahead.argmax(axis=1) + 1
    last = walk.engine_steps[samples] - (exit - policy.first_exit(exit_count))
    return np.where(exit + jump < exit_count, jump, last)
