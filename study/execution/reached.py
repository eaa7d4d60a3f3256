"""Which training images reach which exit, under the rule that phase 2 would choose for a network as it is now."""

from __future__ import annotations

import numpy as np

from study.arrays import Booleans, batches
from study.costs.costs import Costs
from study.costs.flops import work_of
from study.data.settings import Dataset, ImageSet
from study.errors import UserError
from study.execution.trial_plan import TrialPlan
from study.fronts.optimal_stopping import LEAST_IMAGES, fit_optimal_stopping
from study.networks.multi_exit import MultiExitNetwork
from study.policies.optimal_stopping import OptimalStopping
from study.policies.replay import replay, tally
from study.traces.collect import trace_images
from study.traces.trace import Trace
from study.training.loop import autocast
from study.training.settings import TrainingSettings

LOSS = 0.01
"""The accuracy on calibration images that the rule may lose."""
_AT_ONCE = 4096
"""Training images whose logits are in memory at once."""


def refuse_few_images(training: TrainingSettings, dataset: Dataset) -> None:
    """Refuse by a UserError to weigh images by reach where too few calibration images are there to fit a rule."""
    found = len(dataset.calibration.labels)
    if training.trains_heads and training.reach and found < LEAST_IMAGES:
        raise UserError(
            f"reach: {found} calibration images are too few to fit the rule that tells which images reach an exit: it "
            f"needs {LEAST_IMAGES}; set data.calibration higher, or reach to 0"
        )


def images_that_reach(network: MultiExitNetwork, dataset: Dataset, plan: TrialPlan) -> Booleans:
    """``[E, N]``: whether the rule tries an exit on a training image, without augmentation.

    The rule is optimal stopping, fitted to the calibration images: of all prices, that of the fewest FLOPs at most a
    point below the classifier's accuracy on these images.
    """
    costs = work_of(plan.network, dataset.info).flop_costs()

    def trace_of(images: ImageSet) -> Trace:
        with autocast(network.device, plan.training.precision):
            found = trace_images(network, images, dataset.info)
        return Trace(found.logits, found.labels, np.ones(network.exit_count))  # the rule compares no thresholds

    rule, train = _chosen(trace_of(dataset.calibration), costs), dataset.train
    parts = [
        ImageSet(images=train.images[part], labels=train.labels[part]) for part in batches(len(train.labels), _AT_ONCE)
    ]
    return np.concatenate([replay(trace_of(part), rule).tried for part in parts]).T


def _chosen(trace: Trace, costs: Costs) -> OptimalStopping:
    rules = fit_optimal_stopping(trace, costs)
    counted = [tally(trace, rule) for rule in rules]
    enough = [one.accuracy >= trace.classic_accuracy - LOSS for one in counted]
    enough[0] = True  # one rule must remain, and that of the least price loses least
    cost = [costs.mean(one, "flops") if kept else np.inf for one, kept in zip(counted, enough, strict=True)]
    return rules[int(np.argmin(cost))]
