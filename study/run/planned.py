"""Which trials of a run folder belong to its study as it stands: one that has grown may have left others behind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.settings import HEAD_MODES
from search_spaces.spec import StudySpec
from study.run.plan import plan_trials


def planned_trials(
    spec: StudySpec, digests: Mapping[str, str], trials: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The trials that the study would train, were it started now.

    Args:
        spec: the study.
        digests: data set -> digest of its images.
        trials: that were started: ``trial_id``, ``mode``, ``data``, ``weights``, ``score``.

    Returns:
        Some of ``trials``. Backbones that are the user's own, and trials of a data set without a digest, are all kept.
    """
    kept: list[Mapping[str, Any]] = [one for one in trials if one["mode"] and one["data"] not in digests]
    for data, digest in digests.items():
        own = [one for one in trials if one["data"] == data]
        heads = [one for one in own if one["mode"] in HEAD_MODES]
        backbones = [one for one in own if one["mode"] not in HEAD_MODES]
        plans = {plan.trial_id: plan for plan in plan_trials(spec, "backbones", digest)}
        if spec.backbones.pretrained:
            (plan,) = plans.values()
            plans = {one["trial_id"]: plan for one in backbones}
        backbones = [one for one in backbones if one["trial_id"] in plans]
        kept += backbones
        ranked = sorted(backbones, key=lambda one: (-_score(one), one["trial_id"]))
        for parent in ranked[: spec.exits.parents]:
            network, name = plans[parent["trial_id"]].network, parent["weights"]
            wanted = {one.trial_id for one in plan_trials(spec, "exits", digest, backbone=network, parent=name)}
            kept += [one for one in heads if one["trial_id"] in wanted]
    return kept


def _score(trial: Mapping[str, Any]) -> float:
    return -math.inf if trial["score"] is None else float(trial["score"])
