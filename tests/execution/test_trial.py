"""Trials: killed anywhere and run again, they end like one that was never interrupted."""

import json
import math
from dataclasses import replace

import pytest
import torch
from support.tiny_network import TINY, image_set

from study.checkpoints import tensors as checkpoints_module
from study.checkpoints.description import WeightsId, read_description
from study.checkpoints.tensors import read
from study.data.settings import DataInfo, Dataset
from study.errors import UserError
from study.execution.trial import read_trial, run_trial
from study.execution.trial_plan import TrialPlan
from study.networks.settings import HeadSettings, NetworkSettings
from study.training.settings import TrainingSettings

INFO = DataInfo(
    name="stripes",
    image_size=8,
    channels=1,
    class_names=("a", "b", "c"),
    mean=(0.5,),
    std=(0.3,),
    flip=False,
    crop_padding=1,
    digest="d1ge5t",
    settings={},
)
EPOCHS = 4


class Killed(BaseException):
    """What no program catches."""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


DATASET = Dataset(
    info=INFO,
    train=image_set(40, 0, noise=160, step=40),
    calibration=image_set(9, 1, noise=160, step=40),
    validation=image_set(30, 2, noise=160, step=40),
)


def plan(mode: str = "normal", parent: str | None = None, **training) -> TrialPlan:
    return TrialPlan(
        phase="exits" if mode == "exits" else "backbones",
        network=NetworkSettings(backbone=TINY, head=HeadSettings(kind="conv", conv_channels=4)),
        training=TrainingSettings(
            mode=mode,
            **{
                "batch_size": 16,
                "learning_rate": 0.02,
                "schedule": "constant",
                "precision": "fp32",
                "weight_decay": 0.01,
                **training,
            },
        ),
        data_digest=INFO.digest,
        parent=parent,
        settings={"batch_size": 16},
    )


def run(trial: TrialPlan, folder, *, epochs: int = EPOCHS, on_epoch=lambda row: None):
    return run_trial(trial, DATASET, folder, epochs=epochs, device=torch.device("cpu"), on_epoch=on_epoch)


def result(trial: TrialPlan, folder) -> dict[str, object]:
    """Everything that a trial leaves behind, but for the seconds."""
    left: dict[str, object] = {}
    for generation in ("last", "best"):
        manifest = json.loads((folder / trial.trial_id / generation / "manifest.json").read_bytes())
        files = manifest["files"]
        left |= {f"{generation} {name}": files[name]["sha256"] for name in files if "tensors" in name}
        assert f"{generation} weights.safetensors" in left
        history = read_description(folder / trial.trial_id / generation).history
        left[f"{generation} history"] = [replace(row, seconds=0.0) for row in history]
    return left


def kill_when_reporting(trial, folder, monkeypatch, epoch: int) -> None:
    def report(row):
        if row.epoch == epoch:
            raise Killed

    run(trial, folder, on_epoch=report)


def kill_when_publishing(trial, folder, monkeypatch, epoch: int, generation: str) -> None:
    real = checkpoints_module.publish

    def publish(target, files):
        if target.name == generation and len(json.loads(files["checkpoint.json"])["history"]) == epoch:
            raise Killed
        real(target, files)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints_module, "publish", publish)
        run(trial, folder)


@pytest.mark.parametrize(
    ("optimizer", "precision", "mode", "ema_decay"),
    [
        ("adam", "fp32", "normal", 0.0),
        ("adam", "bf16", "joint", 0.8),
        ("adamw", "fp32", "joint", 0.8),
        ("adamw", "bf16", "normal", 0.0),
        ("sgd", "fp32", "normal", 0.8),
        ("sgd", "bf16", "joint", 0.0),
    ],
)
def test_killed_after_each_epoch_a_trial_ends_as_if_it_had_not_been(
    tmp_path, monkeypatch, optimizer, precision, mode, ema_decay
):
    changed = {"schedule": "cosine", "schedule_epochs": EPOCHS, "ema_decay": ema_decay}
    trial = plan(mode, optimizer=optimizer, precision=precision, **changed)
    run(trial, tmp_path / "whole")
    for epoch in range(1, EPOCHS):
        with pytest.raises(Killed):
            kill_when_reporting(trial, tmp_path / "killed", monkeypatch, epoch)
        assert len(read_trial(trial, tmp_path / "killed").history) == epoch
    run(trial, tmp_path / "killed")
    assert result(trial, tmp_path / "killed") == result(trial, tmp_path / "whole")


@pytest.mark.parametrize("epoch", range(1, EPOCHS + 1))
def test_killed_between_publishing_best_and_last(tmp_path, monkeypatch, epoch):
    trial = plan("joint", optimizer="adamw")
    run(trial, tmp_path / "whole")
    with pytest.raises(Killed):
        kill_when_publishing(trial, tmp_path / "killed", monkeypatch, epoch, "last")
    left = read_trial(trial, tmp_path / "killed")
    assert (len(left.history) if left else 0) == epoch - 1
    trained = []
    run(trial, tmp_path / "killed", on_epoch=lambda row: trained.append(row.epoch))
    assert trained == list(range(epoch, EPOCHS + 1))
    assert result(trial, tmp_path / "killed") == result(trial, tmp_path / "whole")


def test_killed_before_publishing_best(tmp_path, monkeypatch):
    trial = plan()
    history = run(trial, tmp_path / "whole")
    improved = [row.epoch for row in history if row.score > max([-1, *(r.score for r in history[: row.epoch - 1])])]
    assert len(improved) > 1, "the case needs a second best epoch"
    for epoch in improved:
        folder = tmp_path / str(epoch)
        with pytest.raises(Killed):
            kill_when_publishing(trial, folder, monkeypatch, epoch, "best")
        run(trial, folder)
        assert result(trial, folder) == result(trial, tmp_path / "whole")


def test_a_longer_budget_goes_on_and_a_done_one_does_nothing(tmp_path):
    trial = plan()
    run(trial, tmp_path / "whole")
    first = run(trial, tmp_path / "grown", epochs=2)
    grown = run(trial, tmp_path / "grown")
    assert grown[:2] == first and len(grown) == EPOCHS
    assert result(trial, tmp_path / "grown") == result(trial, tmp_path / "whole")
    assert run(trial, tmp_path / "grown", on_epoch=lambda row: pytest.fail("trained")) == grown


def test_heads_are_trained_on_the_best_weights_of_their_parent(tmp_path):
    backbone = plan()
    run(backbone, tmp_path)
    checkpoint, mother, _ = read(tmp_path / backbone.trial_id / "best")
    trial = plan("exits", parent=WeightsId(backbone.trial_id, checkpoint.weights_hash))
    run(trial, tmp_path, epochs=1)
    run(trial, tmp_path, epochs=2)
    _, child, _ = read(tmp_path / trial.trial_id / "last")
    assert all(torch.equal(child[name], value) for name, value in mother.items())
    assert read_trial(trial, tmp_path).parent == trial.parent
    for wrong in (WeightsId(backbone.trial_id, "0" * 16), WeightsId("nobody", "0000")):
        with pytest.raises(UserError, match="does not hold the weights"):
            run(plan("exits", parent=wrong), tmp_path)


@pytest.mark.parametrize("damage", ["weights", "optimizer", "checkpoint", "manifest"])
def test_a_damaged_trial_is_set_aside_and_starts_anew(tmp_path, damage, capsys):
    trial = plan()
    run(trial, tmp_path / "whole")
    run(trial, tmp_path / "damaged", epochs=2)
    path = next((tmp_path / "damaged" / trial.trial_id / "last").glob(f"{damage}*"))
    path.write_bytes(path.read_bytes()[:-3])
    assert run(trial, tmp_path / "damaged")[-1].epoch == EPOCHS
    assert result(trial, tmp_path / "damaged") == result(trial, tmp_path / "whole")
    assert (tmp_path / "damaged" / f"{trial.trial_id}.damaged").is_dir()
    (line,) = capsys.readouterr().err.splitlines()
    assert path.name in line


def test_reading_a_trial(tmp_path):
    trial = plan()
    assert read_trial(trial, tmp_path) is None
    run(trial, tmp_path, epochs=1)
    assert read_trial(trial, tmp_path).history[-1].epoch == 1
    path = next((tmp_path / trial.trial_id / "last").glob("weights*"))
    path.write_bytes(b"")
    assert read_trial(trial, tmp_path) is None and not (tmp_path / trial.trial_id).exists()


def test_a_trial_that_diverges_keeps_its_best_weights(tmp_path):
    trial = plan(learning_rate=1e30)
    history = run(trial, tmp_path)
    assert len(history) == 1 and math.isnan(history[0].score)
    assert run(trial, tmp_path, on_epoch=lambda row: pytest.fail("trained")) == read_trial(trial, tmp_path).history


def test_a_plan_for_other_images_is_refused(tmp_path):
    trial = plan("exits", parent="mother@12", patience=3)
    with pytest.raises(AssertionError, match="other images"):
        run(replace(trial, data_digest="other"), tmp_path)
