"""The trials of phase 1: their settings are drawn once, and every user of the trials takes the same draw.

Drawing needs neither torch nor images. A trial gets its name when its images, and of exit heads the parent, are known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from search_spaces.choices import draw
from search_spaces.settings import HEAD_MODES, BackboneFields, HeadFields, TrainingFields, settings_of
from search_spaces.spec import StudySpec, TrainingSpec
from study.checkpoints.description import WeightsId
from study.errors import UserError
from study.execution.trial_plan import TrialPlan
from study.networks.settings import HeadSettings, NetworkSettings
from study.training.settings import TrainingSettings

Phase = Literal["backbones", "exits"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True, kw_only=True)
class PhaseTrials:
    """The trials of one half of phase 1."""

    section: TrainingSpec
    """Epochs and scheduler."""
    keep: int
    """The number of trials that the next step of the study needs."""
    plans: tuple[TrialPlan, ...]
    """In the order of the search, without the digest of the images, and of exit heads without the backbone."""


@dataclass(frozen=True, kw_only=True)
class StudyTrials:
    """The trials of both halves of phase 1."""

    backbones: PhaseTrials
    exits: PhaseTrials
    pretrained: str | None
    """The user's own weights, which take the place of the backbones."""
    initial: WeightsId | None
    """The weights that the backbones start from."""

    def backbones_on(self, data_digest: str) -> list[TrialPlan]:
        """The backbones, trained on some images."""
        return [replace(plan, data_digest=data_digest, parent=self.initial) for plan in self.backbones.plans]

    def exits_on(self, backbone: TrialPlan, parent: WeightsId | None = None) -> list[TrialPlan]:
        """The exit heads on a backbone; without ``parent``, the weights of the backbone, the trials have no names."""
        return [
            replace(
                plan,
                network=replace(backbone.network, head=plan.network.head),
                data_digest=backbone.data_digest,
                parent=parent,
            )
            for plan in self.exits.plans
        ]

    def exits_on_each(self, backbones: Sequence[TrialPlan]) -> list[TrialPlan]:
        """The exit heads on each different network among some backbones, before the backbones are trained."""
        different = {plan.network: plan for plan in backbones}
        return [plan for one in different.values() for plan in self.exits_on(one)]


def draw_trials(spec: StudySpec) -> StudyTrials:
    """Draw the settings of the trials of a study.

    Raises:
        UserError: a grid over a range, or a setting that no network or training run accepts.
    """
    points, digest = spec.operating_points, spec.backbones.initial_digest
    return StudyTrials(
        backbones=PhaseTrials(section=spec.backbones, keep=spec.exits.parents, plans=_plans(spec, "backbones")),
        exits=PhaseTrials(section=spec.exits, keep=points.networks, plans=_plans(spec, "exits")),
        pretrained=spec.backbones.pretrained,
        initial=None if digest is None else WeightsId("weights", digest),
    )


def _plans(spec: StudySpec, phase: Phase) -> tuple[TrialPlan, ...]:
    section: TrainingSpec = getattr(spec, phase)
    try:
        draws = draw(spec.choices(phase), section.trials, spec.seed)
        return tuple(_plan(phase, section, settings, spec.seed) for settings in draws)
    except ValueError as error:
        raise UserError(f"{spec.name}: {phase}: {error}") from None


def _plan(phase: Phase, section: TrainingSpec, settings: Mapping[str, Any], seed: int) -> TrialPlan:
    values = {**dict(section), **settings}
    training = TrainingSettings(
        seed=seed,
        # The schedule ends with the budget. A constant rate has no end, so that such a trial can be extended.
        schedule_epochs=1 if settings["schedule"] == "constant" else section.epochs,
        mode=values["mode"],
        **{name: values[name] for name in settings_of(TrainingFields)},
    )
    if phase == "backbones":
        network = NetworkSettings(
            **{name: values[name] for name in settings_of(BackboneFields)},
            code=(values["code"] or {}).get(str(values["backbone"]).partition(":")[0]),
        )
    else:
        head = HeadSettings(**{name: values[setting.option] for name, setting in settings_of(HeadFields).items()})
        network = NetworkSettings(head=head)
    return TrialPlan(phase=phase, network=network, training=training, data_digest="", settings=settings)


def rungs(section: TrainingSpec) -> list[int]:
    """The epoch budgets of successive halving, rising, the last one the full budget."""
    if section.scheduler.kind != "halving":
        return [section.epochs]
    budgets = []
    budget = section.scheduler.first_rung
    while budget < section.epochs:
        budgets.append(budget)
        budget *= section.scheduler.reduction
    return [*budgets, section.epochs]


def epochs_of(section: TrainingSpec, trials: int, *, keep: int) -> int:
    """Epochs that a phase trains in all, if no trial ends before the scheduler ends the trial."""
    total = before = 0
    for budget in rungs(section):
        total += trials * (budget - before)
        before = budget
        trials = min(trials, max(math.ceil(trials / section.scheduler.reduction), keep))
    return total


def planned_trials(
    drawn: StudyTrials, digests: Mapping[str, str], trials: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Those of the started trials that the study would train, were it started now.

    A run folder whose study has grown may hold trials that are no part of the study any more. Backbones that are the
    user's own, and trials of a data set without a digest, are all kept.

    Args:
        drawn: the trials of the study.
        digests: data set -> digest of its images.
        trials: that were started: ``trial_id``, ``mode``, ``data``, ``weights``, ``score``.
    """
    kept: list[Mapping[str, Any]] = [one for one in trials if one["mode"] and one["data"] not in digests]
    for data, digest in digests.items():
        own = [one for one in trials if one["data"] == data]
        heads = [one for one in own if one["mode"] in HEAD_MODES]
        backbones = [one for one in own if one["mode"] not in HEAD_MODES]
        plans = drawn.backbones_on(digest)
        if drawn.pretrained:
            known = dict.fromkeys([one["trial_id"] for one in backbones], plans[0])
        else:
            known = {plan.trial_id: plan for plan in plans}
        backbones = [one for one in backbones if one["trial_id"] in known]
        kept += backbones
        ranked = sorted(backbones, key=lambda one: (-_score(one), one["trial_id"]))
        for parent in ranked[: drawn.backbones.keep]:
            wanted = {plan.trial_id for plan in drawn.exits_on(known[parent["trial_id"]], parent["weights"])}
            kept += [one for one in heads if one["trial_id"] in wanted]
    return kept


def _score(trial: Mapping[str, Any]) -> float:
    return -math.inf if trial["score"] is None else float(trial["score"])
