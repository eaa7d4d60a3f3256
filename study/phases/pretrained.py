"""The user's own weights in place of phase 1's backbones."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from search_spaces.spec import StudySpec
from study.checkpoints import check_fit, load_pretrained, new_network, save, weights_fingerprint
from study.data import DataInfo
from study.learning_curves import Epoch
from study.networks.multi_exit import load_backbone_weights
from study.phases.training import TrialRecord, make_record, plan_trials
from study.phases.tuning import Workshop
from study.training import TrainingState, evaluate_split
from study.trials import read_trial


def check_pretrained(spec: StudySpec, info: DataInfo) -> None:
    """Refuse weights that are of another backbone or other images, before a run folder is made.

    Raises:
        UserError: they do not fit.
    """
    if spec.backbones.pretrained:
        path = Path(spec.backbones.pretrained)
        (plan,) = plan_trials(spec, "backbones", info.digest)
        check_fit(path, load_pretrained(path)[1], plan.network, info)


def adopt_pretrained(spec: StudySpec, workshop: Workshop) -> TrialRecord:
    """The user's own backbone as the one trial of phase 1a, with its validation accuracy."""
    assert spec.backbones.pretrained is not None
    path, info = Path(spec.backbones.pretrained), workshop.dataset.info
    (plan,) = plan_trials(spec, "backbones", info.digest)
    _, tensors = load_pretrained(path)
    plan = dataclasses.replace(plan, parent=f"weights@{weights_fingerprint(tensors)}")
    folder = workshop.checkpoints / plan.trial_id
    if read_trial(plan, workshop.checkpoints) is None:
        network = new_network(plan.network, info, spec.seed)
        load_backbone_weights(network, tensors)
        result = evaluate_split(network, workshop.dataset.validation, info, plan.training, heads=False)
        row = Epoch(
            epoch=0,
            learning_rate=0.0,
            train_loss=math.nan,
            validation_loss=result.loss,
            classifier_accuracy=result.accuracies[-1],
            exit_accuracies=(),
            score=result.accuracies[-1],
            seconds=0.0,
        )
        save(
            folder,
            network,
            TrainingState((row,), {}),
            settings=plan.network,
            training=plan.training,
            info=info,
            parent=plan.parent,
        )
    return make_record(plan, "pretrained", workshop.checkpoints)
