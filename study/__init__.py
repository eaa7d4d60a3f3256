"""Early-exit image classifiers that predict their exit: train, trace, replay, search.

Names are imported when they are first used, so that each costs only what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from study.costs.profile import Costs as Costs
    from study.errors import UserError as UserError
    from study.forecasts import prediction_accuracies as prediction_accuracies
    from study.forecasts import prediction_accuracy as prediction_accuracy
    from study.forecasts import prediction_confusion as prediction_confusion
    from study.fronts import exact_front as exact_front
    from study.grids import replay_grid as replay_grid
    from study.policies import Classic as Classic
    from study.policies import Hierarchical as Hierarchical
    from study.policies import Placed as Placed
    from study.policies import Predictive as Predictive
    from study.policies import Static as Static
    from study.trace import Trace as Trace
    from study.walks import Walk as Walk
    from study.walks import replay as replay
    from study.walks import tally as tally

_HOME = {
    "Costs": "costs.profile",
    "UserError": "errors",
    "Classic": "policies",
    "Hierarchical": "policies",
    "Placed": "policies",
    "Predictive": "policies",
    "Static": "policies",
    "Walk": "walks",
    "exact_front": "fronts",
    "prediction_accuracies": "forecasts",
    "prediction_accuracy": "forecasts",
    "prediction_confusion": "forecasts",
    "replay": "walks",
    "replay_grid": "grids",
    "tally": "walks",
    "Trace": "trace",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'study' has no attribute {name!r}")
    value = getattr(import_module(f"study.{_HOME[name]}"), name)
    globals()[name] = value
    return value
