"""Logs of phase 1 for the tools that people have: which ones a study asks for, and what they are told.

Logs are for people. They take no part in results: no trial, no name and no decision depends on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from results.storage.paths import Location
from study.errors import UserError
from study.execution.trial_plan import TrialPlan
from study.training.learning_curves import Epoch

FOLDER = "logs"
"""The folder of the logs in a run folder."""
_NEEDS = {"tensorboard": ("tensorboardX", "tensorboardX"), "mlflow": ("mlflow", "mlflow-skinny")}
"""Logger -> the module that writes its logs, and the package that holds the module."""


class TrialLog(Protocol):
    """What is told of trials while they train."""

    def report(self, plan: TrialPlan, epoch: Epoch) -> None:
        """A trial has finished an epoch."""
        ...

    def fail(self, plan: TrialPlan) -> None:
        """A trial has failed for good."""
        ...

    def close(self) -> None:
        """No trial trains any more."""
        ...


@dataclass(frozen=True)
class NoLog:
    """No logs."""

    def report(self, plan: TrialPlan, epoch: Epoch) -> None:
        """See :meth:`TrialLog.report`."""

    def fail(self, plan: TrialPlan) -> None:
        """See :meth:`TrialLog.fail`."""

    def close(self) -> None:
        """See :meth:`TrialLog.close`."""


def check_loggers(names: Sequence[str], folder: Location, environment: dict[str, str] | Any) -> None:
    """Check before any work that the logs of a study can be written.

    Args:
        names: of the loggers.
        folder: the run folder.
        environment: variables, such as ``MLFLOW_TRACKING_URI``.

    Raises:
        UserError: a package is missing, or the logs would have no place.
    """
    for name in names:
        module, package = _NEEDS[name]
        if find_spec(module) is None:
            raise UserError(
                f"logging: {name} needs a package that is not installed: `pip install {package}`, "
                f"or leave {name} out of logging"
            )
        if not isinstance(folder, Path) and not (name == "mlflow" and environment.get("MLFLOW_TRACKING_URI")):
            remedy = " or set MLFLOW_TRACKING_URI" if name == "mlflow" else ""
            raise UserError(
                f"logging: {name} writes files on this machine, but the run folder is {folder}: "
                f"leave {name} out of logging{remedy}"
            )


def logged_values(epoch: Epoch) -> dict[str, Any]:
    """The values of an epoch, by name; the accuracy of each exit has a name of its own."""
    values: dict[str, Any] = {
        name: getattr(epoch, name)
        for name in ("score", "train_loss", "validation_loss", "classifier_accuracy", "learning_rate", "seconds")
    }
    exits = {f"{exit:02d}": accuracy for exit, accuracy in enumerate(epoch.exit_accuracies, start=1)}
    return {**values, "exit_accuracy": exits} if exits else values
