"""The decision rule of an exported model: scores of an exit, and what they decide, on the device of the logits.

The rule is the JSON form of any policy (:mod:`study.export.rule`). At each exit a table divides the scale of the score
into intervals; the action of an interval is to stop, to try a later exit, or to ask the prediction engine. The
functions are the twins of :mod:`study.policies.criteria`, :mod:`study.policies.engine` and the policies' ``decide``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

STOP, ASK_ENGINE = 0, -1
"""Actions; every other action is the exit that is tried next, E + 1 for the classifier."""
CRITERIA = ("logit", "max_softmax", "entropy", "margin", "log_margin", "patience")


@dataclass(frozen=True, eq=False)
class Engine:
    """The prediction engine at one exit."""

    thresholds: tuple[float, ...]
    """theta_min(l+k, E) for k = 1..K_max."""
    betas: tuple[float, ...]
    """beta of exit min(l+k, E) for k = 1..K_max."""
    beyond: int
    """Where a jump beyond exit E lands."""


@dataclass(frozen=True, eq=False)
class ExitRule:
    """What is decided at one exit."""

    threshold: float
    """theta_l, of the criterion ``logit``."""
    bounds: tuple[float, ...]
    actions: tuple[int, ...]
    """Action i holds for scores from ``bounds[i - 1]`` to below ``bounds[i]``."""
    engine: Engine | None


@dataclass(frozen=True, eq=False)
class Rule:
    """When an image stops, and which exit it tries next.

    Raises:
        ValueError: a number is of no rule for this network.
    """

    criterion: str
    exit_count: int
    first: int
    exits: Mapping[int, ExitRule]

    def __post_init__(self) -> None:
        last = self.exit_count + 1
        if self.criterion not in CRITERIA:
            raise ValueError(f"the criterion {self.criterion[:60]!r} is unknown")
        for exit, one in self.exits.items():
            if len(one.actions) != len(one.bounds) + 1 or list(one.bounds) != sorted(set(one.bounds)):
                raise ValueError(f"bounds and actions of exit {exit} do not fit together")
            for action in {*one.actions} - {STOP, ASK_ENGINE}:
                if not exit < action <= last:
                    raise ValueError(f"exit {exit} leads to {action}, to no later exit")
            engine = one.engine
            if ASK_ENGINE in one.actions and engine is None:
                raise ValueError(f"exit {exit} has no engine to ask")
            if engine and (not engine.betas or len(engine.betas) != len(engine.thresholds)):
                raise ValueError(f"betas and thresholds of the engine of exit {exit} do not fit together")
            if engine and engine.beyond not in (last - 1, last):
                raise ValueError(f"the engine of exit {exit} lands beyond the last exit on {engine.beyond}")
        for exit in self.reachable:
            if exit != last and exit not in self.exits:
                raise ValueError(f"exit {exit} has no rule")

    @property
    def reachable(self) -> frozenset[int]:
        """The exits that an image can reach, and E + 1 if an image can reach the classifier."""
        found, open_exits = {self.first}, [self.first]
        while open_exits:
            exit = open_exits.pop()
            rule = self.exits.get(exit)
            new = set() if rule is None else set(rule.actions) - {STOP, ASK_ENGINE}
            if rule is not None and rule.engine is not None and ASK_ENGINE in rule.actions:
                ahead = [exit + jump for jump in range(1, len(rule.engine.betas) + 1)]
                new |= {one if one <= self.exit_count else rule.engine.beyond for one in ahead}
            open_exits += new - found
            found |= new
        return frozenset(found)

    @classmethod
    def from_json(cls, raw: Any) -> Rule:
        """The rule of ``model.json``.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: it holds none.
        """
        exits = {
            int(exit): ExitRule(
                _number(one["threshold"]),
                tuple(map(_number, one["bounds"])),
                tuple(map(_whole, one["actions"])),
                None
                if one["engine"] is None
                else Engine(
                    tuple(map(_number, one["engine"]["thresholds"])),
                    tuple(map(_number, one["engine"]["betas"])),
                    _whole(one["engine"]["beyond"]),
                ),
            )
            for exit, one in raw["exits"].items()
        }
        return cls(str(raw["criterion"]), _whole(raw["exit_count"]), _whole(raw["first"]), exits)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{str(value)[:60]!r} is no number")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**31:
        raise ValueError(f"{str(value)[:60]!r} is no whole number")
    return value


class Decider:
    """A rule on a device: its tables are copied there once."""

    def __init__(self, rule: Rule, device: torch.device) -> None:
        def on_device(values: tuple[float, ...] | tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        self.rule = rule
        self._bounds = {exit: on_device(one.bounds, torch.float64) for exit, one in rule.exits.items()}
        self._actions = {exit: on_device(one.actions, torch.int64) for exit, one in rule.exits.items()}
        self._engines = {
            exit: (on_device(one.engine.thresholds, torch.float64), on_device(one.engine.betas, torch.float64))
            for exit, one in rule.exits.items()
            if one.engine is not None
        }

    def scores(self, logits: Tensor, exit: int) -> Tensor:
        """``[B]`` float64: the scores of logits ``[B, C]`` of an exit by any criterion but ``patience``."""
        if self.rule.criterion != "logit":
            return confidence(logits, self.rule.criterion)
        activation, threshold = logits.double().abs().amax(dim=1), self.rule.exits[exit].threshold
        return activation / threshold if threshold else torch.full_like(activation, torch.inf)

    def actions(self, logits: Tensor, scores: Tensor, exit: int) -> tuple[Tensor, Tensor | None]:
        """``[B]``: 0 where an image stops, else the exit that it tries next; and the engine's steps, if it has one."""
        found = self._actions[exit][torch.bucketize(scores, self._bounds[exit], right=True)]
        if exit not in self._engines:
            return found, None
        thresholds, betas = self._engines[exit]
        jumps = _jumps(logits, thresholds, betas)
        landing = exit + jumps
        engine, asked = self.rule.exits[exit].engine, found == ASK_ENGINE
        assert engine is not None
        landing = torch.where(landing > self.rule.exit_count, engine.beyond, landing)
        return torch.where(asked, landing, found), torch.where(asked, jumps, 0)


def _jumps(logits: Tensor, thresholds: Tensor, betas: Tensor) -> Tensor:
    """``[B]``: the engine's jumps, the smallest k with r^k > beta of exit l + k, else K_max."""
    smoothed, activations = torch.nn.functional.pad(logits.double(), (1, 1)), []
    for _ in range(len(betas)):
        inner = smoothed[:, :-2] + smoothed[:, 1:-1] + smoothed[:, 2:]
        activations.append(inner.abs().amax(dim=1))
        smoothed = torch.nn.functional.pad(inner, (1, 1))
    ratios = torch.stack(activations, dim=1) / thresholds
    hit = torch.where(thresholds == 0, torch.inf, ratios) > betas
    return torch.where(hit.any(dim=1), hit.to(torch.uint8).argmax(dim=1) + 1, len(betas))


def confidence(logits: Tensor, criterion: str) -> Tensor:
    """``[B]`` float64: ``max_softmax``, ``entropy``, ``margin`` or ``log_margin`` of logits ``[B, C]``."""
    shifted = logits.double()
    shifted = shifted - shifted.amax(dim=1, keepdim=True)
    weights = shifted.exp()
    total, classes = weights.sum(dim=1), logits.shape[1]
    if classes == 1 or criterion == "max_softmax":
        return total.reciprocal()
    if criterion == "log_margin":
        others = weights.scatter(1, weights.argmax(dim=1, keepdim=True), 0.0)
        unsure = (others.sum(dim=1) + others.amax(dim=1)) / total
        return (-unsure.clamp_min(torch.finfo(torch.float64).tiny).log()).clamp_min(0.0)
    if criterion == "margin":
        return (1 - weights.topk(2, dim=1).values[:, 1]) / total
    entropy = total.log() - (weights * shifted).sum(dim=1) / total
    return (1 - entropy / torch.tensor(float(classes), dtype=torch.float64).log()).clamp(0.0, 1.0)
