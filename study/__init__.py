"""Early-exit image classifiers that predict their exit: train, trace, replay, search.

Names are imported when they are first used, so that each costs only what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from study.errors import foreign_package

if TYPE_CHECKING:
    from study.costs.costs import Costs as Costs
    from study.errors import UserError as UserError
    from study.fronts.engine_accuracy import prediction_accuracies as prediction_accuracies
    from study.fronts.engine_accuracy import prediction_accuracy as prediction_accuracy
    from study.fronts.engine_accuracy import prediction_confusion as prediction_confusion
    from study.fronts.exact import exact_front as exact_front
    from study.fronts.grid import replay_grid as replay_grid
    from study.policies.policies import Classic as Classic
    from study.policies.policies import Hierarchical as Hierarchical
    from study.policies.policies import Placed as Placed
    from study.policies.policies import Predictive as Predictive
    from study.policies.policies import Static as Static
    from study.policies.replay import Walk as Walk
    from study.policies.replay import replay as replay
    from study.policies.replay import tally as tally
    from study.traces.trace import Trace as Trace

_HOME = {
    "Costs": "costs.costs",
    "UserError": "errors",
    "Classic": "policies.policies",
    "Hierarchical": "policies.policies",
    "Placed": "policies.policies",
    "Predictive": "policies.policies",
    "Static": "policies.policies",
    "Walk": "policies.replay",
    "exact_front": "fronts.exact",
    "prediction_accuracies": "fronts.engine_accuracy",
    "prediction_accuracy": "fronts.engine_accuracy",
    "prediction_confusion": "fronts.engine_accuracy",
    "replay": "policies.replay",
    "replay_grid": "fronts.grid",
    "tally": "policies.replay",
    "Trace": "traces.trace",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'study' has no attribute {name!r}")
    if hidden := foreign_package():
        raise ImportError(hidden)
    value = getattr(import_module(f"study.{_HOME[name]}"), name)
    globals()[name] = value
    return value
