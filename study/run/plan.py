"""Phase 1: plan the trials of backbones and exit heads, train them by rungs, rank them.

What is left to do is always derived from the checkpoints, and the survivors of a rung are a pure function of their
learning curves: a study that was interrupted ends like one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

from search_spaces.choices import draw
from search_spaces.spec import SpecError, StudySpec, TrainingSpec
from study.checkpoints.description import WeightsId
from study.errors import UserError
from study.execution.trial import TrialPlan
from study.networks.settings import HeadSettings, NetworkSettings
from study.training.settings import TrainingSettings

Phase = Literal["backbones", "exits"]


def plan_trials(
    spec: StudySpec,
    phase: Phase,
    data_digest: str,
    *,
    backbone: NetworkSettings | None = None,
    parent: WeightsId | None = None,
) -> list[TrialPlan]:
    """The trials of a phase, in the order of the search.

    Args:
        spec: the study.
        phase: which half.
        data_digest: of the images.
        backbone: the network that exit heads are put on (phase ``exits``).
        parent: the weights of that backbone.

    Raises:
        SpecError: a grid over a range.
        UserError: a setting that no network or training run accepts.
    """
    section: TrainingSpec = getattr(spec, phase)
    try:
        draws = draw(spec.choices(phase), section.trials, spec.seed)
    except ValueError as error:
        raise SpecError(f"{spec.name}: {phase}: {error}") from None
    try:
        return [_plan(spec, phase, settings, data_digest, backbone, parent) for settings in draws]
    except UserError as error:
        raise UserError(f"{spec.name}: {phase}: {error}") from None


def _plan(
    spec: StudySpec,
    phase: Phase,
    settings: Mapping[str, Any],
    data_digest: str,
    backbone: NetworkSettings | None,
    parent: WeightsId | None,
) -> TrialPlan:
    section = spec.backbones if phase == "backbones" else spec.exits
    names = {field.name for field in fields(TrainingSettings)}
    training = TrainingSettings(
        patience=section.patience,
        precision=section.precision,
        seed=spec.seed,
        # The horizon is the budget; a constant rate has none, so that such a trial can be extended.
        schedule_epochs=1 if settings["schedule"] == "constant" else section.epochs,
        # Of the exits, the mode is a choice; of the backbones it is one value.
        **{name: value for name, value in {"mode": section.mode, **settings}.items() if name in names},
    )
    if phase == "backbones":
        network = NetworkSettings(backbone=settings["backbone"], width=settings["width"])
    else:
        assert backbone is not None, "exit heads need a backbone"
        head = HeadSettings(
            kind=settings["head"],
            **{name: settings[name] for name in ("codewords", "sharing", "conv_channels", "conv_side", "conv_layers")},
        )
        network = NetworkSettings(backbone=backbone.backbone, width=backbone.width, head=head)
    return TrialPlan(
        phase=phase, network=network, training=training, data_digest=data_digest, parent=parent, settings=settings
    )


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
    """Epochs that a phase trains in all, if no trial ends before its scheduler ends it."""
    total = before = 0
    for budget in rungs(section):
        total += trials * (budget - before)
        before = budget
        trials = min(trials, max(math.ceil(trials / section.scheduler.reduction), keep))
    return total
