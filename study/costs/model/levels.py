"""Costs at each frequency level of a device, and the longest walks of a policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from study.arrays import Floats, Integers
from study.costs.costs import Costs
from study.policies.base import Policy


@dataclass(frozen=True, eq=False)
class LevelCosts:
    """Costs of a network at each of L frequency levels of one device.

    Args:
        megahertz: ``[L]``, rising; the last entry is f_max.
        costs: L costs with seconds and energies, of a busy device.
        idle_watts: power of the device while it waits.
        switch_seconds: delay of an image by a change of the level.

    """

    megahertz: ArrayLike
    costs: tuple[Costs, ...]
    idle_watts: float
    switch_seconds: float

    @property
    def exit_count(self) -> int:
        """E."""
        return self.costs[0].exit_count

    @property
    def busy_watts(self) -> Floats:
        """``[L]``, the mean power of the whole network at each level."""
        return np.array([costs.classic("energy") / costs.classic("seconds") for costs in self.costs])


@dataclass(frozen=True, eq=False)
class PathCosts:
    """One measure of every leg at every level.

    A leg runs from behind a tried exit, or from the input, to the next tried exit: its segments, the head of this exit,
    and the engine's steps behind this head.
    """

    segments: Floats
    """``[L, E+2]``: sum of the segments up to l = 0..E+1."""
    heads: Floats
    """``[L, E+2]``: head of exit l; 0 at the input and at the classifier."""
    engine_step: Floats
    """``[L]``."""

    @classmethod
    def of(cls, levels: LevelCosts, measure: str) -> PathCosts:
        """Sum up ``seconds`` or ``energy``."""
        parts = [costs.parts(measure) for costs in levels.costs]
        return cls(
            segments=np.array([[0.0, *segments.cumsum()] for segments, _, _ in parts]),
            heads=np.array([[0.0, *heads, 0.0] for _, heads, _ in parts]),
            engine_step=np.array([step for _, _, step in parts]),
        )

    def cost(self, level: Integers, start: Integers, end: int, engine_steps: Integers | int) -> Floats:
        """Cost of legs from behind exit ``start`` (0: the input) to ``end``; all but ``end`` are broadcast."""
        segments = self.segments[level, end] - self.segments[level, start]
        result: Floats = segments + self.heads[level, end] + engine_steps * self.engine_step[level]
        return result


def most_steps(policy: Policy, exit: int, exit_count: int) -> int:
    """Largest number of engine steps behind an exit; 0 behind the last exit, from which no jump is possible."""
    return policy.max_jump if exit < exit_count else 0


def worst_seconds(costs: Costs, policy: Policy) -> Floats:
    """``[E+2]``: seconds of the longest walk behind a failed exit l = 0..E+1; 0 is the input, E + 1 the end."""
    segments, heads, step = costs.parts("seconds")
    exits = costs.exit_count
    tried = policy.heads_it_may_run(exits)
    steps = np.array([most_steps(policy, exit, exits) for exit in range(1, exits + 1)])
    worst = segments + np.array([*(tried * (heads + steps * step)), 0.0])
    worst[policy.depth(exits) :] = 0.0
    return np.array([*np.cumsum(worst[::-1])[::-1], 0.0])
