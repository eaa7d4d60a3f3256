"""Policies at equal accuracy on the networks of a run folder: :mod:`study.search.compare` on what is stored."""

from __future__ import annotations

from collections.abc import Sequence

from results.storage.paths import Location
from study.errors import UserError
from study.run.backbones import network_names, stored_backbones
from study.run.reader import published_costs, stored_logits, stored_networks
from study.run.stored_front import stored_space
from study.search.cheapest import Objective
from study.search.compare import DROPS, Comparison, compare

_DECIDED = ("policy", "criterion", "beta", "start_layer", "placements", "constraints.accuracy_drop")
"""Settings of a study that a comparison varies, or bounds, itself."""


def compare_stored(
    folder: Location,
    changes: Sequence[tuple[str, object]] = (),
    data: str | None = None,
    *,
    drops: Sequence[float] = DROPS,
    objective: Objective = "flops",
    report_test: bool = False,
) -> Comparison:
    """Compare policies at equal accuracy. Neither images nor weights are needed.

    Args:
        folder: run folder, or a pack.
        changes: of the search space, as ``("operating_points.statistic", "mean_max")``.
        data: the data set; may be left out where the study has one.
        drops: shares of accuracy that may be lost on validation.
        objective: the cost to minimise.
        report_test: report the chosen points on test too; without it the test traces are not opened.

    Raises:
        UserError: a change is of something that is compared, something stored is missing, or no point keeps the
            constraints.
    """
    for key, _ in changes:
        if key.removeprefix("operating_points.") in _DECIDED:
            raise UserError(
                f"compare: --set {key} has no effect: all policies, exits and betas are tried, up to --drop"
            )
    space = stored_space(folder, changes)
    networks = stored_networks(folder, space, data)
    tests = stored_logits(folder, networks, "test") if report_test else {}
    return compare(
        space,
        networks,
        test_logits=(lambda one: tests[one.weights, one.precision]) if report_test else None,
        published=lambda one: published_costs(folder, one),
        backbones=stored_backbones(folder, space, data),
        names=network_names(folder),
        drops=drops,
        objective=objective,
        rules=[str(rule) for rule in space.dvfs.values if rule != "none"],
    )
