"""Phase 1: plan the trials of backbones and exit heads, train them by rungs, rank them.

What is left to do is always derived from the checkpoints, and the survivors of a rung are a pure function of their
learning curves: a study that was interrupted ends like one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from search_spaces.choices import draw
from search_spaces.settings import HeadFields, TrainingFields, settings_of
from search_spaces.spec import SpecError, StudySpec, TrainingSpec
from study.checkpoints.description import WeightsId
from study.data.settings import DataSettings, resolve
from study.errors import UserError
from study.execution.trial_plan import TrialPlan
from study.networks.settings import HeadSettings, NetworkSettings
from study.progress import Reporter
from study.training.settings import TrainingSettings

if TYPE_CHECKING:
    from study.execution.executor import Executor

Phase = Literal["backbones", "exits"]


def data_settings(spec: StudySpec, name: str) -> DataSettings:
    """The resolved settings of one of the data sets of a study.

    Raises:
        UserError: the data set is unknown, or a value is not allowed.
    """
    asked = {**spec.data.model_dump(), "name": name}
    if len(spec.data.names) > 1 and name != "image_folder":
        asked["folder"] = None  # the folder is that of image_folder
    return resolve(DataSettings(seed=spec.seed, **asked))


def resolve_precision(
    spec: StudySpec, recorded: Mapping[str, str], executor: Executor, reporter: Reporter
) -> StudySpec:
    """The study with a precision in place of ``auto``, so that one trial never mixes two precisions.

    The first start asks the machines that train. A later start takes the precision that the run folder records, and
    reports where these machines would have meant the other one.

    Args:
        spec: the study as asked for.
        recorded: phase -> precision, of the study that the run folder holds; empty in a new folder.
        executor: asked what ``auto`` means.
        reporter: told of the difference.

    Raises:
        UserError: the cluster is gone, or no machine of the cluster is large enough for a trial.
    """
    phases: list[Phase] = [phase for phase in get_args(Phase) if getattr(spec, phase).precision == "auto"]
    if not phases:
        return spec
    here = executor.fast_precision()
    changes: dict[str, Any] = {}
    for phase in phases:
        precision = recorded.get(phase, here)
        if precision != here:
            reporter.line(f"{phase}: precision auto stays {precision}, as recorded; {here} would be fast here")
        changes[phase] = getattr(spec, phase).model_copy(update={"precision": precision})
    return spec.model_copy(update=changes)


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
    values = {**dict(section), **settings}
    training = TrainingSettings(
        seed=spec.seed,
        # The schedule ends with the budget. A constant rate has no end, so that such a trial can be extended.
        schedule_epochs=1 if settings["schedule"] == "constant" else section.epochs,
        mode=values["mode"],
        **{name: values[name] for name in settings_of(TrainingFields)},
    )
    if phase == "backbones":
        network = NetworkSettings(backbone=settings["backbone"], width=settings["width"])
    else:
        assert backbone is not None, "exit heads need a backbone"
        head = HeadSettings(**{name: settings[setting.option] for name, setting in settings_of(HeadFields).items()})
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
