"""What a policy is: the questions that replay, costs, searches and tables ask of every policy.

A policy never sees logits. A policy sees *ratios*: logits divided by thresholds, in float64, computed once. A policy
compares ratios with ``beta`` and multiplies nothing. Replay, exact fronts and live inference share these comparisons,
so that their results agree.

Exits are numbered from 1 to E as in the paper; E + 1 is the classifier.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import product
from typing import Any, ClassVar, NamedTuple, TypeAlias, cast

import numpy as np

from study.arrays import Booleans, Floats, Integers
from study.errors import UserError
from study.policies.criteria import Criterion

Betas: TypeAlias = float | tuple[float, ...]
"""One beta for all exits, or E betas, one for each exit."""


@dataclass(frozen=True, eq=False)
class Ratios:
    """What a policy compares with beta at one exit, for B samples."""

    stop: Floats
    """``[B]``, r_l of the paper's exit criterion, or the score of another criterion."""
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
    """``[B]``: smoothing steps that the prediction engine ran."""

    @classmethod
    def same_next(cls, stop: Booleans, next_exit: int) -> Decision:
        """A decision without engine: every sample that does not stop tries the same exit next."""
        return cls(stop, np.full(len(stop), next_exit, dtype=np.int64), np.zeros(len(stop), dtype=np.int64))


class CompiledPolicy(NamedTuple):
    """A policy as numbers, for :mod:`study.policies.kernels`.

    A sample at exit l stops where its score reaches ``beta[l]``. Otherwise the sample tries ``next_exit[l]``, or, with
    an engine, the exit that the engine predicts. Place 0 of the arrays is unused.
    """

    first: int
    """The first exit tried."""
    beta: Floats
    """``[E+1]``; -infinity where every score stops."""
    next_exit: Integers
    """``[E+1]``, the exit after a failed exit without engine. The values must be right for every start layer."""
    max_jump: int
    """K_max of the engine; 0 without engine."""
    beyond: int
    """Where a jump beyond exit E lands."""


class Policy(ABC):
    """The rule that decides, exit by exit, whether to stop and which exit to try next.

    A subclass is a frozen dataclass whose fields are the settings of the policy. ``first_exit`` and ``decide`` are
    enough to replay a policy and to run it on a live network. The other members have defaults, which a subclass
    overrides where they are wrong for it.

    To search a policy in studies and to store it in tables, give the policy a ``name`` and enter the class in
    :data:`study.policies.policies.POLICIES`. Fields named ``beta``, ``start_layer``, ``max_jump``, ``overshoot``,
    ``criterion`` and ``exits`` are searched and stored under these names.
    """

    name: ClassVar[str]
    """The name in study files, tables and on the command line."""
    criterion: ClassVar[Criterion] = "logit"
    """Which scores the policy compares with beta."""
    max_jump: ClassVar[int] = 0
    """Smoothing steps that the engine may need; 0 for a policy without engine."""
    predicts: ClassVar[bool] = False
    """Whether the prediction engine chooses the next exit, so that k engine steps are a jump of k exits. Frequency
    rules follow these jumps."""
    fitted: ClassVar[bool] = False
    """Whether the settings are fitted to calibration images, one policy for each price
    (:mod:`study.fronts.fitted_policies`)."""
    knows_its_end: ClassVar[bool] = False
    """Whether all samples stop at one exit that is known before any head runs."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "decide" in vars(cls) and "compiled" not in vars(cls):
            cls.compiled = Policy.compiled  # type: ignore[method-assign]  # the inherited form may decide differently

    @abstractmethod
    def first_exit(self, exit_count: int) -> int:
        """The first exit tried, E + 1 for none.

        Raises:
            UserError: the policy names an exit that a network with ``exit_count`` exits does not have.
        """

    @abstractmethod
    def decide(self, ratios: Ratios, *, exit: int, exit_count: int, beta: Floats | None = None) -> Decision:
        """Decide for B samples that are at exit ``exit``; ``beta`` (``[B]``) replaces the policy's beta."""

    def path(self, exit_count: int) -> tuple[int, ...] | None:
        """The exits that a sample tries in order if it never stops; None where the path differs between samples."""
        return None

    def depth(self, exit_count: int) -> int:
        """The deepest exit that a sample can reach; E + 1 is the classifier."""
        return exit_count + 1

    def heads_it_may_run(self, exit_count: int) -> Booleans:
        """``[E]``: exits whose heads some walk of the policy runs."""
        exits, path = np.arange(1, exit_count + 1), self.path(exit_count)
        return exits >= self.first_exit(exit_count) if path is None else np.isin(exits, np.array(path, dtype=np.int64))

    def compiled(self, exit_count: int) -> CompiledPolicy | None:
        """The policy as numbers; None if the policy can only be replayed by its decisions, which is slower.

        Raises:
            UserError: the policy names an exit that a network with ``exit_count`` exits does not have.
        """
        return None

    @property
    def compares_thresholds(self) -> bool:
        """Whether decisions depend on the thresholds."""
        return not self.knows_its_end and self.criterion == "logit"

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """The names of the policy's settings."""
        return tuple(field.name for field in fields(cls)) if is_dataclass(cls) else ()

    @classmethod
    def has_compiled_form(cls) -> bool:
        """Whether :meth:`compiled` gives numbers. Grids and exact fronts need them."""
        return cls.compiled is not Policy.compiled

    @classmethod
    def from_settings(cls, values: Mapping[str, Any]) -> Policy:
        """A policy with these values. Settings that the policy does not have are left out; others keep their defaults.

        Raises:
            UserError: a value is impossible.
        """
        return cls(**{name: values[name] for name in cls.settings() if name in values})

    @classmethod
    def variants(cls, values: Mapping[str, Iterable[Any]]) -> Iterator[Policy]:
        """:meth:`from_settings` for each combination of values; the last setting changes fastest."""
        own = {name: of_one for name, of_one in values.items() if name in cls.settings()}
        return (cls.from_settings(dict(zip(own, chosen, strict=True))) for chosen in product(*own.values()))

    def at(self, **settings: Any) -> Policy:
        """The same policy with other settings. Settings that the policy does not have are left out."""
        own = {name: value for name, value in settings.items() if name in self.settings()}
        return replace(cast(Any, self), **own) if own else self

    def decision_flops(self, classes: int) -> float:
        """Operations of a decision at an exit with ``classes`` classes that the costs of heads and engine do not hold.

        0 for a comparison of one score with a threshold, as the published program counts.
        """
        return 0.0

    def to_row(self) -> dict[str, Any]:
        """The policy as columns of the tables. A column is None where the policy has no such setting."""
        own = {name: getattr(self, name) for name in self.settings()}
        beta, exits = own.get("beta"), own.get("exits")
        return {
            "policy": self.name,
            "criterion": self.criterion,
            "beta": None if isinstance(beta, tuple) else beta,
            "betas": list(beta) if isinstance(beta, tuple) else None,
            "start_layer": own.get("start_layer"),
            "exits": None if exits is None else list(exits),
            "max_jump": own.get("max_jump"),
            "overshoot": own.get("overshoot"),
            "price": own.get("price"),
            "rule": None,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Policy:
        """The policy of a row that :meth:`to_row` made. Columns that are None leave a setting at its default."""
        known = {name: row[name] for name in cls.settings() if row.get(name) is not None}
        for name in {"start_layer", "max_jump"} & known.keys():
            known[name] = int(known[name])  # a table with missing values holds integers as floats
        if "beta" in cls.settings() and row.get("betas") is not None:
            known["beta"] = tuple(row["betas"])
        return cls(**known)


def check_exit(what: str, exit: int, last: int) -> None:
    """Refuse by a UserError an exit that is not in 1..``last``."""
    if not 1 <= exit <= last:
        raise UserError(f"{what} is {exit}, but this network's exits are numbered 1 to {last}")


def checked_beta(beta: float | Sequence[float]) -> Betas:
    """A number as float, a sequence as tuple of floats; a UserError if a value is not a number above 0."""
    try:
        values = [float(one) for one in np.atleast_1d(np.asarray(beta))]
    except (TypeError, ValueError):
        raise UserError(f"beta is {beta!r}, but must be a number, or one number for each exit") from None
    for one in values:
        if not one > 0:
            raise UserError(f"beta is {one}, but the exit criterion needs beta > 0")
    return values[0] if np.ndim(beta) == 0 else tuple(values)


def betas_of(beta: Betas, exit_count: int) -> Floats:
    """``[E]``, the beta of each exit; a UserError if the number of betas is neither 1 nor E."""
    if isinstance(beta, tuple) and len(beta) != exit_count:
        raise UserError(f"there are {len(beta)} betas, but this network has {exit_count} exits: give one, or one each")
    return np.full(exit_count, beta, dtype=np.float64)
