"""Early-exit image classifiers that predict their exit: train, trace, replay, search.

Names are imported when they are first used, so that each costs only what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from study.errors import foreign_package

if TYPE_CHECKING:
    from study.costs.costs import Costs
    from study.deploy.early_exit import EarlyExit
    from study.errors import UserError
    from study.fronts.engine_accuracy import prediction_accuracies, prediction_accuracy, prediction_confusion
    from study.fronts.exact import exact_front
    from study.fronts.grid import replay_grid
    from study.fronts.head_thresholds import fit_head_thresholds
    from study.fronts.optimal_stopping import fit_optimal_stopping
    from study.policies.optimal_stopping import OptimalStopping
    from study.policies.policies import Classic, Hierarchical, Placed, Predictive, Static
    from study.policies.replay import Walk, replay, tally
    from study.report.opened_study import Study
    from study.traces.trace import Trace

__all__ = [
    "Classic",
    "Costs",
    "EarlyExit",
    "Hierarchical",
    "OptimalStopping",
    "Placed",
    "Predictive",
    "Static",
    "Study",
    "Trace",
    "UserError",
    "Walk",
    "exact_front",
    "fit_head_thresholds",
    "fit_optimal_stopping",
    "prediction_accuracies",
    "prediction_accuracy",
    "prediction_confusion",
    "replay",
    "replay_grid",
    "tally",
]
_HOME = {
    "Costs": "costs.costs",
    "EarlyExit": "deploy.early_exit",
    "Study": "report.opened_study",
    "UserError": "errors",
    "Trace": "traces.trace",
    "exact_front": "fronts.exact",
    "replay_grid": "fronts.grid",
    "fit_head_thresholds": "fronts.head_thresholds",
    "fit_optimal_stopping": "fronts.optimal_stopping",
    "OptimalStopping": "policies.optimal_stopping",
    **dict.fromkeys(("Classic", "Hierarchical", "Placed", "Predictive", "Static"), "policies.policies"),
    **dict.fromkeys(("Walk", "replay", "tally"), "policies.replay"),
    **dict.fromkeys(("prediction_accuracies", "prediction_accuracy", "prediction_confusion"), "fronts.engine_accuracy"),
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'study' has no attribute {name!r}")
    if hidden := foreign_package():
        raise ImportError(hidden)
    value = getattr(import_module(f"study.{_HOME[name]}"), name)
    globals()[name] = value
    return value
