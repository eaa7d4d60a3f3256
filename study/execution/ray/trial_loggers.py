"""Logs of phase 1 through the logger callbacks of Ray Tune.

Tune runs the jobs of a study in one pool: a trial of the study is several trials of Tune, one for each rung, and traces
and measurements are trials of Tune too. Therefore the callbacks are not given to Tune. The trials of the study report
to them directly, each with its own name, from this process. Neither Ray nor a worker is needed: ``--local`` writes the
same logs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.tune.logger import LoggerCallback

from results.storage.paths import Location
from study.errors import UserError
from study.execution.failures import last_line
from study.execution.trial_log import FOLDER, logged_values
from study.execution.trial_plan import TrialPlan
from study.progress import Reporter
from study.training.learning_curves import Epoch


@dataclass(frozen=True)
class _LoggedTrial:
    """What Tune's callbacks read of a trial. Equal for the same trial, so that a later rung goes on in its log."""

    trial_id: str
    phase: str
    local_path: str
    config: dict[str, Any] = field(compare=False)

    @property
    def evaluated_params(self) -> dict[str, Any]:
        return self.config

    def init_local_path(self) -> None:
        Path(self.local_path).mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return f"{self.phase} {self.trial_id}"


class TrialLoggers:
    """The loggers of a study. Implements :class:`~study.execution.trial_log.TrialLog`.

    A logger that fails while trials train is given up with a line; the study goes on without it.
    """

    def __init__(self, names: Sequence[str], folder: Location, study: str, reporter: Reporter) -> None:
        """Set the loggers up; arguments were checked by :func:`study.execution.trial_log.check_loggers`.

        Args:
            names: of the loggers.
            folder: the run folder; logs lie in its folder ``logs``.
            study: the name of the study, which MLflow shows as the experiment.
            reporter: told of loggers that fail.

        Raises:
            UserError: a logger cannot be set up.
        """
        self._logs, self._reporter = folder / FOLDER, reporter
        self._open: dict[str, _LoggedTrial] = {}
        self._callbacks: dict[str, LoggerCallback] = {}
        for name in names:
            try:
                self._callbacks[name] = _tensorboard() if name == "tensorboard" else _mlflow(self._logs, study)
            except Exception as error:  # of a package of others
                raise UserError(f"logging: {name} cannot be set up: {last_line(error)}") from None

    def report(self, plan: TrialPlan, epoch: Epoch) -> None:
        """See :meth:`TrialLog.report`."""
        values = {"training_iteration": epoch.epoch, **logged_values(epoch)}
        self._each(plan, lambda callback, trial: callback.log_trial_result(epoch.epoch, trial, values))

    def fail(self, plan: TrialPlan) -> None:
        """See :meth:`TrialLog.fail`."""
        if plan.trial_id in self._open:
            self._each(plan, lambda callback, trial: callback.log_trial_end(trial, failed=True))
            del self._open[plan.trial_id]

    def close(self) -> None:
        """See :meth:`TrialLog.close`."""
        for trial in self._open.values():
            for name in list(self._callbacks):
                self._try(name, lambda callback, trial=trial: callback.log_trial_end(trial, failed=False))
        self._open.clear()

    def _each(self, plan: TrialPlan, tell: Any) -> None:
        identity = plan.trial_id
        if identity not in self._open:
            config = {"phase": plan.phase, "trial_id": identity, **plan.settings}
            place = str(self._logs / "tensorboard" / identity)
            self._open[identity] = trial = _LoggedTrial(identity, plan.phase, place, config)
            for name in list(self._callbacks):
                self._try(name, lambda callback: callback.log_trial_start(trial))
        for name in list(self._callbacks):
            self._try(name, lambda callback: tell(callback, self._open[identity]))

    def _try(self, name: str, tell: Any) -> None:
        try:
            tell(self._callbacks[name])
        except Exception as error:
            del self._callbacks[name]
            self._reporter.line(f"logging: {name} failed, and the study goes on without it: {last_line(error)}")


def _tensorboard() -> LoggerCallback:
    from ray.tune.logger import TBXLoggerCallback

    return TBXLoggerCallback()


def _mlflow(logs: Location, study: str) -> LoggerCallback:
    """MLflow at ``MLFLOW_TRACKING_URI``, or in a file of the run folder."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when MLflow is imported
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    class ResumedRuns(MLflowLoggerCallback):  # type: ignore[misc]
        """A trial that an earlier start logged goes on in its run."""

        def log_trial_start(self, trial: Any) -> None:
            """Called for the first report of a trial in this start."""
            from mlflow.tracking import MlflowClient

            if trial not in self._trial_runs:
                client = MlflowClient(tracking_uri=self.tracking_uri)
                found = client.search_runs(
                    [self.mlflow_util.experiment_id], f"tags.trial_name = '{trial}'", max_results=1
                )
                if found:
                    self._trial_runs[trial] = found[0].info.run_id
            super().log_trial_start(trial)

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    asked = uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        assert isinstance(logs, Path), "checked before any work"
        logs.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{logs / 'mlflow.db'}"
    callback = ResumedRuns(tracking_uri=uri, experiment_name=study, tags={"study": study})
    callback.setup()
    if asked is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # set by MLflow; the next study of this process has its own file
    return callback
