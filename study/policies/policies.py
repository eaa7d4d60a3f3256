"""The policies. To add a policy, write its class here and enter the class in :data:`POLICIES`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np

from study.arrays import Floats
from study.errors import UserError
from study.policies.base import Betas, CompiledPolicy, Decision, Policy, Ratios, betas_of, check_exit, checked_beta
from study.policies.criteria import Criterion, check_criterion
from study.policies.engine import LONGEST_JUMP, predicted_jumps
from study.policies.optimal_stopping import OptimalStopping

Overshoot = Literal["last_exit", "classifier"]


class _Numbered(Policy):
    """A policy whose decisions follow from its numbers alone. Without a setting ``beta``, every score stops."""

    def numbers(self, exit_count: int) -> CompiledPolicy:
        """The numbers of a policy that tries every exit from the first one on, without engine."""
        first, betas = self.first_exit(exit_count), betas_of(getattr(self, "beta", -np.inf), exit_count)
        return CompiledPolicy(first, np.append(0.0, betas), np.arange(1, exit_count + 2), 0, exit_count + 1)

    def compiled(self, exit_count: int) -> CompiledPolicy:
        """:meth:`numbers`; a subclass with other decisions loses this form."""
        return self.numbers(exit_count)

    def decide(self, ratios: Ratios, *, exit: int, exit_count: int, beta: Floats | None = None) -> Decision:
        """Stop where r_l >= beta. Otherwise try the next exit, or jump by the engine's prediction."""
        numbers = _numbers_of(self, exit_count)
        stop = np.asarray(ratios.stop >= (numbers.beta[exit] if beta is None else beta)) | self.knows_its_end
        if not self.max_jump or exit == exit_count:
            return Decision.same_next(stop, numbers.next_exit[exit])
        ahead = np.minimum(np.arange(exit + 1, exit + 1 + self.max_jump), exit_count)
        jump = predicted_jumps(ratios.jump, numbers.beta[ahead] if beta is None else beta[:, None])
        landing = np.where(exit + jump > exit_count, numbers.beyond, exit + jump)
        # Without a hit the engine has run all K_max steps, and K_max is also the jump.
        return Decision(stop, landing, np.where(stop, 0, jump))


@lru_cache(maxsize=64)
def _numbers_of(policy: _Numbered, exit_count: int) -> CompiledPolicy:
    """The numbers of a policy; a live network asks for them at each exit of each batch."""
    return policy.numbers(exit_count)


@dataclass(frozen=True)
class Classic(_Numbered):
    """No exits: every sample runs to the classifier."""

    name = "classic"
    knows_its_end = True

    def first_exit(self, exit_count: int) -> int:
        """The classifier."""
        return exit_count + 1

    def path(self, exit_count: int) -> tuple[int, ...]:
        """No exit."""
        return ()


@dataclass(frozen=True)
class Static(_Numbered):
    """Always stop at one exit: the network cut there."""

    exit: int
    name = "static"
    knows_its_end = True

    def first_exit(self, exit_count: int) -> int:
        """The one exit."""
        check_exit("static: exit", self.exit, exit_count)
        return self.exit

    def path(self, exit_count: int) -> tuple[int, ...]:
        """The one exit."""
        return (self.exit,)

    def depth(self, exit_count: int) -> int:
        """The one exit."""
        return self.exit

    def to_row(self) -> dict[str, Any]:
        """The exit stands as the only one in the column ``exits``."""
        return {**super().to_row(), "exits": [self.exit]}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Static:
        """The policy of a row of a table."""
        return cls(int(row["exits"][0]))


@dataclass(frozen=True)
class _Adaptive(_Numbered):
    """A policy that compares scores with beta."""

    beta: Betas

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", checked_beta(self.beta))
        check_criterion(self.criterion)


@dataclass(frozen=True)
class _FromLayer(_Adaptive):
    """A policy that may begin at any exit."""

    start_layer: int = 1

    def first_exit(self, exit_count: int) -> int:
        """``start_layer``."""
        check_exit(f"{self.name}: start_layer", self.start_layer, exit_count)
        betas_of(self.beta, exit_count)
        return self.start_layer


@dataclass(frozen=True)
class Hierarchical(_FromLayer):
    """Try every exit from ``start_layer`` on: the passive early exit (Passalis et al. 2020).

    Args:
        beta: the threshold of the criterion; larger means later and surer exits.
        start_layer: the first exit tried.
        criterion: what is compared with beta (:mod:`study.policies.criteria`).
    """

    criterion: Criterion = "logit"  # type: ignore[misc]  # a setting here, a constant in other policies
    name = "hierarchical"

    def path(self, exit_count: int) -> tuple[int, ...]:
        """Every exit from ``start_layer`` on."""
        return tuple(range(self.start_layer, exit_count + 1))


@dataclass(frozen=True)
class Placed(_Adaptive):
    """Try a chosen subset of exits, in order.

    Args:
        beta: the threshold of the criterion, one or E values.
        exits: the exits tried, in rising order.
        criterion: what is compared with beta (:mod:`study.policies.criteria`).
    """

    exits: Sequence[int]
    criterion: Criterion = "logit"  # type: ignore[misc]
    name = "placed"

    def __post_init__(self) -> None:
        super().__post_init__()
        exits = tuple(int(exit) for exit in self.exits)
        if not exits or list(exits) != sorted(set(exits)):
            raise UserError(f"placed: exits are {list(exits)}, but must be a rising list of exit numbers")
        object.__setattr__(self, "exits", exits)

    def first_exit(self, exit_count: int) -> int:
        """The first exit of the subset."""
        check_exit("placed: first exit", self.exits[0], exit_count)
        check_exit("placed: last exit", self.exits[-1], exit_count)
        betas_of(self.beta, exit_count)
        return self.exits[0]

    def path(self, exit_count: int) -> tuple[int, ...]:
        """The subset."""
        return tuple(self.exits)

    def numbers(self, exit_count: int) -> CompiledPolicy:
        """From each exit of the subset to the next one."""
        numbers = super().numbers(exit_count)
        numbers.next_exit[list(self.exits)] = [*self.exits[1:], exit_count + 1]
        return numbers


@dataclass(frozen=True)
class HeadThresholds(Placed):
    """Thresholds of each head, fitted to calibration images: :mod:`study.fronts.head_thresholds`.

    Args:
        beta: E thresholds; infinity at an exit that is not tried.
        exits: the exits tried, in rising order.
        criterion: what is compared with the thresholds.
        price: accuracy that a run of the classic network costs, for which the thresholds were fitted.
    """

    price: float = 0.0
    name = "head_thresholds"
    fitted = True


@dataclass(frozen=True)
class Predictive(_FromLayer):
    """Predict the exit: jump over the exits that the prediction engine expects to fail (Li et al., AAAI 2023).

    Args:
        beta: the exit criterion's factor; larger means later and surer exits. With one beta for each exit, the engine
            compares its expectation of exit l + k with the beta of exit l + k.
        start_layer: L_0, the first exit tried.
        max_jump: K_max, the longest jump (8; the published program uses 5 for STL-10).
        overshoot: where a jump beyond exit E lands: ``last_exit`` tries exit E (published VGG-19), ``classifier``
            runs to the end (published ResNet-34).
    """

    max_jump: int = 8  # type: ignore[misc]
    overshoot: Overshoot = "last_exit"
    name = "predictive"
    predicts = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.max_jump <= LONGEST_JUMP:
            raise UserError(f"predictive: max_jump is {self.max_jump}, but must be from 1 to {LONGEST_JUMP}")
        if self.overshoot not in get_args(Overshoot):
            raise UserError(f"predictive: overshoot is {self.overshoot!r}: use last_exit or classifier")

    def numbers(self, exit_count: int) -> CompiledPolicy:
        """With an engine."""
        beyond = exit_count if self.overshoot == "last_exit" else exit_count + 1
        return super().numbers(exit_count)._replace(max_jump=self.max_jump, beyond=beyond)


POLICIES: dict[str, type[Policy]] = {
    kind.name: kind for kind in (Classic, Static, Hierarchical, Placed, Predictive, HeadThresholds, OptimalStopping)
}


def policy_from_row(row: Mapping[str, Any]) -> Policy:
    """The policy that a row of a table holds."""
    return POLICIES[row["policy"]].from_row(row)
