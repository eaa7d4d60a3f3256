"""The user's own weights in place of phase 1's backbones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from torch import Tensor

from study.checkpoints.description import WeightsId
from study.checkpoints.tensors import save, weights_fingerprint
from study.execution.executor import TrainingContext
from study.execution.trial import read_trial
from study.execution.trial_plan import TrialPlan
from study.execution.trial_record import TrialRecord, make_record
from study.networks.construction import new_network
from study.networks.multi_exit import load_backbone_weights
from study.training.learning_curves import Epoch
from study.training.loop import TrainingState, evaluate_split


def adopt_pretrained(tensors: Mapping[str, Tensor], plan: TrialPlan, context: TrainingContext) -> TrialRecord:
    """The user's own backbone as the one trial of phase 1a, with its validation accuracy.

    Args:
        tensors: the weights.
        plan: of the trial, without a parent.
        context: the images and the run folder.
    """
    info = context.dataset.info
    plan = dataclasses.replace(plan, parent=WeightsId("weights", weights_fingerprint(tensors)))
    folder = context.checkpoints / plan.trial_id
    if read_trial(plan, context.checkpoints) is None:
        network = new_network(plan.network, info, plan.training.seed)
        load_backbone_weights(network, tensors)
        result = evaluate_split(network, context.dataset.validation, info, plan.training)
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
    return make_record(plan, "pretrained", context.checkpoints)
