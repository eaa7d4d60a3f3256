"""A policy as the rule of an exported model: numbers that :mod:`study.deploy.rule` reads."""

from __future__ import annotations

from typing import Any

import numpy as np

from study.arrays import Floats
from study.deploy.rule import ASK_ENGINE, STOP
from study.errors import UserError
from study.policies.base import Policy
from study.policies.optimal_stopping import OptimalStopping


def rule_of(policy: Policy, thresholds: Floats) -> dict[str, Any]:
    """The rule of a policy as plain values.

    Args:
        policy: any policy with a compiled form, or optimal stopping.
        thresholds: ``[E]``.

    Raises:
        UserError: the policy has no such form, needs the labels, or does not fit a network with E exits.
    """
    exit_count = len(thresholds)
    if policy.criterion == "oracle":
        raise UserError("export: the oracle knows the labels: it can be replayed, but no model can run it")
    first = policy.first_exit(exit_count)
    tried = [int(exit) for exit in np.flatnonzero(policy.heads_it_may_run(exit_count)) + 1]
    if isinstance(policy, OptimalStopping):
        exits = {exit: _entry(policy.tables[exit].bounds, policy.tables[exit].actions, 1.0) for exit in tried}
    else:
        exits = _numbered(policy, thresholds, tried)
    return {
        "policy": policy.name,
        "criterion": policy.criterion,
        "exit_count": exit_count,
        "first": first,
        "exits": {str(exit): one for exit, one in exits.items()},
    }


def _numbered(policy: Policy, thresholds: Floats, tried: list[int]) -> dict[int, dict[str, Any]]:
    exit_count = len(thresholds)
    numbers = policy.compiled(exit_count)
    if numbers is None:
        raise UserError(f"export: policy {policy.name} decides by code of its own, which no exported model holds")
    found = {}
    for exit in tried:
        asks = bool(numbers.max_jump) and exit < exit_count
        otherwise = ASK_ENGINE if asks else int(numbers.next_exit[exit])
        beta = float(numbers.beta[exit])
        bounds: tuple[float, ...]
        actions: tuple[int, ...]
        if policy.knows_its_end or beta == -np.inf:
            bounds, actions = (), (STOP,)
        elif beta == np.inf:
            bounds, actions = (), (otherwise,)
        else:
            bounds, actions = (beta,), (otherwise, STOP)
        found[exit] = _entry(bounds, actions, float(thresholds[exit - 1]))
        if asks:
            ahead = np.minimum(np.arange(exit + 1, exit + 1 + numbers.max_jump), exit_count)
            found[exit]["engine"] = {
                "thresholds": thresholds[ahead - 1].tolist(),
                "betas": numbers.beta[ahead].tolist(),
                "beyond": numbers.beyond,
            }
    return found


def _entry(bounds: tuple[float, ...], actions: tuple[int, ...], threshold: float) -> dict[str, Any]:
    return {"threshold": threshold, "bounds": list(bounds), "actions": list(actions), "engine": None}
