"""Logs of phase 1 for TensorBoard and MLflow: what they hold, what is refused, and that no result depends on them."""

from __future__ import annotations

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.studies import run_context, tiny_study

from results.parts import read_table
from study.cli.main import main
from study.errors import UserError
from study.execution import trial_log
from study.execution.ray.trial_loggers import TrialLoggers
from study.execution.trial_log import check_loggers
from study.execution.trial_plan import TrialPlan
from study.networks.settings import NetworkSettings
from study.progress import Reporter
from study.run.run import run_study
from study.training.learning_curves import Epoch
from study.training.settings import TrainingSettings

BOTH = ["tensorboard", "mlflow"]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small study that wrote both logs."""
    folder = tmp_path_factory.mktemp("logged") / "tiny"
    run_study(tiny_study(logging=BOTH), run_context(folder))
    return folder


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without a run: MLflow takes a second to make one."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    client_of(file).search_experiments()
    return file


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Path:
    """A copy where a log in ``tmp_path`` looks for its database."""
    (tmp_path / "logs").mkdir()
    return shutil.copy(empty_database, tmp_path / "logs" / "mlflow.db")


def scalars(folder: Path, trial: str) -> dict[str, dict[int, float]]:
    """Name -> step -> value, of a trial in the logs of TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "logs" / "tensorboard" / trial))
    events.Reload()
    return {tag: {one.step: one.value for one in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def client_of(database: Path) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{database}")


def mlflow_client(folder: Path) -> Any:
    return client_of(folder / "logs" / "mlflow.db")


def runs_of(folder: Path) -> dict[str, Any]:
    """Trial -> run."""
    client = mlflow_client(folder)
    found = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    runs = {run.data.params["trial_id"]: run for run in found}
    assert len(runs) == len(found), "one run a trial"
    return runs


def curve(folder: Path, trial: str) -> pd.DataFrame:
    epochs = read_table(folder / "tables", "epochs")
    return epochs[epochs["trial_id"] == trial].set_index("epoch")


def test_logs_change_no_result(logged: Path, finished_study: Path) -> None:
    for name in ("trials", "epochs", "operating_points", "front"):
        with_logs, without = (read_table(folder / "tables", name) for folder in (logged, finished_study))
        drop = [column for column in with_logs if column in ("seconds", "provenance")]
        pd.testing.assert_frame_equal(with_logs.drop(columns=drop), without.drop(columns=drop))
    assert not (finished_study / "logs").exists()


def test_tensorboard_has_the_learning_curve_of_each_trial(logged: Path) -> None:
    trials = read_table(logged / "tables", "trials")
    assert {path.name for path in (logged / "logs" / "tensorboard").iterdir()} == set(trials["trial_id"])
    for _, row in trials.iterrows():
        found, expected = scalars(logged, row["trial_id"]), curve(logged, row["trial_id"])
        for name in ("score", "train_loss", "validation_loss", "classifier_accuracy", "learning_rate"):
            steps = found[f"ray/tune/{name}"]
            assert list(steps) == expected.index.tolist(), "all rungs of a trial are one curve"
            assert list(steps.values()) == pytest.approx(expected[name].tolist())
        if row["phase"] == "exits":
            accuracies = expected["exit_accuracies"].iloc[-1]
            last = max(found["ray/tune/exit_accuracy/01"])
            logged_accuracies = [found[f"ray/tune/exit_accuracy/{exit:02d}"][last] for exit in range(1, 13)]
            assert logged_accuracies == pytest.approx(list(accuracies))


def test_mlflow_has_a_run_for_each_trial(logged: Path) -> None:
    trials, runs, client = read_table(logged / "tables", "trials"), runs_of(logged), mlflow_client(logged)
    assert set(runs) == set(trials["trial_id"])
    for _, row in trials.iterrows():
        run, expected = runs[row["trial_id"]], curve(logged, row["trial_id"])
        history = {one.step: one.value for one in client.get_metric_history(run.info.run_id, "score")}
        assert history == pytest.approx(expected["score"].to_dict())
        assert run.info.status == "FINISHED" and run.data.params["phase"] == row["phase"]
        assert run.info.run_name == f"{row['phase']} {row['trial_id']}" and run.data.tags["study"] == "tiny"
        assert "learning_rate" in run.data.params or row["phase"] == "exits"


def test_a_study_without_its_logs_is_the_same_study(logged: Path) -> None:
    run_study(tiny_study(), run_context(logged))


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("mlflow", "mlflow-skinny")])
def test_a_missing_package_is_one_line_before_any_work(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trial_log, "find_spec", lambda module: None)
    storage = ["--storage", str(tmp_path / "runs"), "--local"]
    assert main(["run", "quickstart", *storage, "--set", f"logging=[{name}]"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"`pip install {package}`" in told
    assert not (tmp_path / "runs").exists()


def test_logs_of_a_folder_on_an_object_store_are_refused(tmp_path: Path) -> None:
    from results.storage.paths import location

    away = location("s3://bucket/runs/tiny")
    for name in BOTH:
        with pytest.raises(UserError, match=f"logging: {name} writes files on this machine"):
            check_loggers([name], away, {})
    check_loggers(["mlflow"], away, {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"})
    check_loggers(BOTH, tmp_path, {})


@pytest.mark.parametrize("value", ["[wandb]", "[mlflow, mlflow]", "tensorboard"])
def test_other_loggers_are_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "quickstart", "--dry-run", "--local", "--set", f"logging={value}"]) == 2
    assert "logging" in capsys.readouterr().err


def plan_of(settings: dict[str, Any]) -> TrialPlan:
    training = TrainingSettings(mode="original", precision="fp32")
    network = NetworkSettings(backbone="vgg11", width=0.125)
    return TrialPlan(phase="backbones", network=network, training=training, data_digest="d", settings=settings)


def epoch_of(number: int, score: float = 0.5) -> Epoch:
    return Epoch(
        epoch=number,
        learning_rate=0.1,
        train_loss=1.0,
        validation_loss=1.0,
        classifier_accuracy=0.5,
        exit_accuracies=(),
        score=score,
        seconds=1.0,
    )


class Lines(Reporter):
    """Keeps the lines that it is told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def test_a_logger_that_fails_is_given_up_and_the_others_go_on(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter, plan = Lines(), plan_of({"learning_rate": 0.1})
    log = TrialLoggers(BOTH, tmp_path, "study", reporter)
    log.report(plan, epoch_of(1))

    def fail(*_: object, **__: object) -> None:
        raise OSError("the server is away")

    monkeypatch.setattr(log._callbacks["mlflow"], "log_trial_result", fail)
    log.report(plan, epoch_of(2))
    log.report(plan, epoch_of(3, math.nan))
    log.close()
    assert len(reporter.lines) == 1 and "mlflow failed, and the study goes on without it" in reporter.lines[0]
    assert list(scalars(tmp_path, plan.trial_id)["ray/tune/score"]) == [1, 2], "a score that is not finite is left out"


def test_a_later_start_goes_on_in_the_same_logs(tmp_path: Path, database: Path) -> None:
    plan = plan_of({"learning_rate": 0.1})
    for numbers in ((1, 2), (3,)):
        log = TrialLoggers(BOTH, tmp_path, "tiny", Lines())
        for number in numbers:
            log.report(plan, epoch_of(number, number / 10))
        log.close()
        time.sleep(1.1)  # TensorBoard's files are named by the second
    assert scalars(tmp_path, plan.trial_id)["ray/tune/score"] == pytest.approx({1: 0.1, 2: 0.2, 3: 0.3})
    (run,) = runs_of(tmp_path).values()
    history = {one.step: one.value for one in mlflow_client(tmp_path).get_metric_history(run.info.run_id, "score")}
    assert history == pytest.approx({1: 0.1, 2: 0.2, 3: 0.3}) and run.info.status == "FINISHED"


def test_a_trial_that_failed_is_marked(tmp_path: Path, database: Path) -> None:
    plan = plan_of({})
    log = TrialLoggers(["mlflow"], tmp_path, "tiny", Lines())
    log.fail(plan)  # failed before its first epoch: there is nothing to mark
    log.report(plan, epoch_of(1))
    log.fail(plan)
    log.close()
    (run,) = runs_of(tmp_path).values()
    assert run.info.status == "FAILED"
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_a_tracking_server_of_the_user_is_used(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    log = TrialLoggers(["mlflow"], tmp_path / "run", "tiny", Lines())
    log.report(plan_of({}), epoch_of(1))
    log.close()
    assert len(runs_of(tmp_path)) == 1 and not (tmp_path / "run").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    with pytest.raises(UserError, match="logging: mlflow cannot be set up"):
        TrialLoggers(["mlflow"], tmp_path / "run", "tiny", Lines())
