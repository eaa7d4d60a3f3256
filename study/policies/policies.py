"""Exit criterion, prediction engine and policies: pure functions on arrays.

A policy never sees logits. It sees *ratios* (logits divided by thresholds, float64, computed once) and compares
them with ``beta``; nothing is ever multiplied out. Replay, exact fronts and live inference share these comparisons,
so that they cannot disagree.

Exits are numbered from 1 to E as in the paper; E + 1 is the classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from study.arrays import Booleans, Floats, Integers
from study.errors import UserError
from study.policies.criteria import Criterion, check_criterion
from study.policies.engine import LONGEST_JUMP, predicted_jumps

Betas: TypeAlias = float | tuple[float, ...]
"""One beta for all exits, or E of them, one for each."""
Overshoot = Literal["last_exit", "classifier"]


@dataclass(frozen=True, eq=False)
class Ratios:
    """What a policy compares with beta at one exit, for B samples."""

    stop: Floats
    """``[B]``, r_l of the exit criterion, or the score of another one."""
    jump: Floats
    """``[B, K]``, r^k of the prediction engine; K = 0 for a policy without engine."""


@dataclass(frozen=True, eq=False)
class Decision:
    """What a policy does at one exit with B samples."""

    stop: Booleans
    """``[B]``: stop here."""
    next_exit: Integers
    """``[B]``: the exit tried next by a sample that does not stop; E + 1 is the classifier."""
    engine_steps: Integers
    """``[B]``: smoothing steps of the prediction engine that were run."""


def _follow(stop: Booleans, next_exit: int) -> Decision:
    """A decision in which every sample that goes on tries the same exit next."""
    count = len(stop)
    return Decision(stop, np.full(count, next_exit, dtype=np.int64), np.zeros(count, dtype=np.int64))


@runtime_checkable
class Policy(Protocol):
    """The rule that decides, exit by exit, whether to stop and which exit to try next."""

    @property
    def max_jump(self) -> int:
        """Smoothing steps that the engine may need; 0 for a policy without engine."""
        ...

    @property
    def criterion(self) -> Criterion:
        """What the scores that it compares with beta are."""
        ...

    def first_exit(self, exit_count: int) -> int:
        """The first exit tried, E + 1 for none.

        Raises:
            UserError: the policy names an exit that a network with ``exit_count`` exits does not have.
        """
        ...

    def decide(self, ratios: Ratios, *, exit: int, exit_count: int, beta: Floats | None = None) -> Decision:
        """Decide for B samples that are at exit ``exit``; ``beta`` (``[B]``) overrides the policy's."""
        ...


def _check_exit(what: str, exit: int, last: int) -> None:
    if not 1 <= exit <= last:
        raise UserError(f"{what} is {exit}, but this network's exits are numbered 1 to {last}")


def _checked_beta(beta: float | Sequence[float]) -> Betas:
    try:
        values = [float(one) for one in np.atleast_1d(np.asarray(beta))]
    except (TypeError, ValueError):
        raise UserError(f"beta is {beta!r}, but must be a number, or one number for each exit") from None
    for one in values:
        if not one > 0:
            raise UserError(f"beta is {one}, but the exit criterion needs beta > 0")
    return values[0] if np.ndim(beta) == 0 else tuple(values)


def betas_of(beta: Betas, exit_count: int) -> Floats:
    """``[E]``, the beta of each exit.

    Raises:
        UserError: there are neither one nor E of them.
    """
    if isinstance(beta, tuple) and len(beta) != exit_count:
        raise UserError(f"there are {len(beta)} betas, but this network has {exit_count} exits: give one, or one each")
    return np.full(exit_count, beta, dtype=np.float64)


@dataclass(frozen=True)
class Classic:
    """No exits: every sample runs to the classifier."""

    max_jump = 0
    criterion: ClassVar[Criterion] = "logit"

    def first_exit(self, exit_count: int) -> int:
        """The classifier."""
        return exit_count + 1

    def decide(self, ratios: Ratios, *, exit: int, exit_count: int, beta: Floats | None = None) -> Decision:
        """Never asked: the classic network has no exits."""
        raise AssertionError("the classic policy tries no exit")


@dataclass(frozen=True)
class Static:
    """Always stop at one exit: the network cut there."""

    exit: int
    max_jump = 0
    criterion: ClassVar[Criterion] = "logit"

    def first_exit(self, exit_count: int) -> int:
        """The one exit, whatever its logits say."""
        _check_exit("static: exit", self.exit, exit_count)
        return self.exit

    def decide(self, ratios: Ratios, *, exit: int, exit_count: int, beta: Floats | None = None) -> Decision:
        """Stop."""
        return _follow(np.ones(len(ratios.stop), dtype=np.bool_), exit_count + 1)


@dataclass(frozen=True)
class Hierarchical:
    """Try every exit from ``start_layer`` on: the passive early exit (Passalis et al. 2020).

    Args:
        beta: the threshold of the criterion; larger means later and surer exits.
        start_layer: the first exit tried.
        criterion: what is compared with beta (:mod:`study.policies.criteria`).
    """

    beta: Betas
    start_layer: int = 1
    criterion: Criterion = "logit"
    max_jump = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", _checked_beta(self.beta))
        check_criterion(self.criterion)

    def first_exit(self, exit_count: int) -> int:
        """``start_layer``."""
        _check_exit("hierarchical: start_layer", self.start_layer, exit_count)
        betas_of(self.beta, exit_count)
        return self.start_layer

    def decide(self, ratios: Ratios, *, exit: int, exit_count: int, beta: Floats | None = None) -> Decision:
        """Stop where r_l >= beta, else try the next exit."""
        own = betas_of(self.beta, exit_count)[exit - 1]
        return _follow(ratios.stop >= (own if beta is None else beta), exit + 1)


@dataclass(frozen=True)
class Placed:
    """Try a chosen subset of exits, in order; ``beta`` (E values where it is not one) and ``criterion`` as above."""

    beta: Betas
    exits: Sequence[int]
    criterion: Criterion = "logit"
    max_jump = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", _checked_beta(self.beta))
        check_criterion(self.criterion)
        exits = tuple(int(exit) for exit in self.exits)
        if not exits or list(exits) != sorted(set(exits)):
            raise UserError(f"placed: exits are {list(exits)}, but must be a rising list of exit numbers")
        object.__setattr__(self, "exits", exits)

    def first_exit(self, exit_count: int) -> int:
        """The first of the subset."""
        _check_exit("placed: first exit", self.exits[0], exit_count)
        _check_exit("placed: last exit", self.exits[-1], exit_count)
        betas_of(self.beta, exit_count)
        return self.exits[0]

    def decide(self, ratios: Ratios, *, exit: int, exit_count: int, beta: Floats | None = None) -> Decision:
        """Stop where r_l >= beta, else try the next exit of the subset."""
        later = [chosen for chosen in self.exits if chosen > exit]
        own = betas_of(self.beta, exit_count)[exit - 1]
        return _follow(ratios.stop >= (own if beta is None else beta), later[0] if later else exit_count + 1)


@dataclass(frozen=True)
class Predictive:
    """Predict the exit: jump over the exits that the prediction engine expects to fail (Li et al., AAAI 2023).

    Args:
        beta: the exit criterion's factor; larger means later and surer exits. With one for each exit, the engine
            compares what it expects of exit l + k with the beta of that exit.
        start_layer: L_0, the first exit tried.
        max_jump: K_max, the longest jump (8; the published program uses 5 for STL-10).
        overshoot: where a jump beyond exit E lands: ``last_exit`` tries exit E (published VGG-19), ``classifier``
            runs to the end (published ResNet-34).
    """

    beta: Betas
    start_layer: int = 1
    max_jump: int = 8
    overshoot: Overshoot = "last_exit"
    criterion: ClassVar[Criterion] = "logit"

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", _checked_beta(self.beta))
        if not 1 <= self.max_jump <= LONGEST_JUMP:
            raise UserError(f"predictive: max_jump is {self.max_jump}, but must be from 1 to {LONGEST_JUMP}")
        if self.overshoot not in ("last_exit", "classifier"):
            raise UserError(f"predictive: overshoot is {self.overshoot!r}: use last_exit or classifier")

    def first_exit(self, exit_count: int) -> int:
        """``start_layer``."""
        _check_exit("predictive: start_layer", self.start_layer, exit_count)
        betas_of(self.beta, exit_count)
        return self.start_layer

    def decide(self, ratios: Ratios, *, exit: int, exit_count: int, beta: Floats | None = None) -> Decision:
        """Stop where r_l >= beta, else jump by the engine's prediction; exit E hands over to the classifier."""
        own = betas_of(self.beta, exit_count)
        stop = ratios.stop >= (own[exit - 1] if beta is None else beta)
        if exit == exit_count:
            return _follow(stop, exit_count + 1)
        ahead = own[np.minimum(np.arange(exit, exit + self.max_jump), exit_count - 1)]
        jump = predicted_jumps(ratios.jump, ahead if beta is None else beta[:, None])
        landing = exit + jump
        beyond = exit_count if self.overshoot == "last_exit" else exit_count + 1
        # Without a hit the engine still ran all K_max steps, which is also the jump then taken.
        return Decision(stop, np.where(landing > exit_count, beyond, landing), np.where(stop, 0, jump))


def tried_exits(policy: Hierarchical | Placed, exit_count: int) -> tuple[int, ...]:
    """The exits that a sample which never stops tries, in order."""
    if isinstance(policy, Placed):
        return tuple(policy.exits)
    return tuple(range(policy.start_layer, exit_count + 1))


POLICIES: dict[str, type[Policy]] = {
    "classic": Classic,
    "static": Static,
    "hierarchical": Hierarchical,
    "placed": Placed,
    "predictive": Predictive,
}
