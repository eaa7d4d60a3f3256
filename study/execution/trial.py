"""A trial: one training run with its own folder of checkpoints.

The name of a trial is a hash of all settings that decide the result, without the epoch budget. The name is known before
the trial starts, so that a later start finds the checkpoints and resumes from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from results.storage.paths import Location
from study.checkpoints.description import Checkpoint, MadeBy, WeightsId, made_by_now, read_description
from study.checkpoints.initial import TRIAL, load_initial_weights, read_initial
from study.checkpoints.tensors import load_weights, read, read_best, save
from study.costs.measure.meters import device_name
from study.data.settings import Dataset
from study.execution.reached import images_that_reach
from study.execution.trial_plan import TrialPlan
from study.networks.construction import new_network
from study.networks.multi_exit import MultiExitNetwork
from study.storage.locks import exclusive
from study.storage.publish import DamagedError, read_or_set_aside, sweep
from study.training.learning_curves import Epoch
from study.training.loop import TrainingState, train

PATIENCE_SECONDS = 60.0
"""The time to wait for the lock of a trial: a worker whose driver was killed ends within seconds."""


def run_trial(
    plan: TrialPlan,
    dataset: Dataset,
    checkpoints: Location,
    *,
    epochs: int,
    device: torch.device,
    on_epoch: Callable[[Epoch], None] = lambda row: None,
) -> tuple[Epoch, ...]:
    """Train a trial up to ``epochs`` epochs in all, from its own last checkpoint where it has one.

    Args:
        plan: what to train.
        dataset: the plan holds the digest of this data set.
        checkpoints: the folder ``checkpoints`` of the run folder; the trial writes ``<trial id>/{last,best}``.
        epochs: the budget, counted from the trial's very first start.
        device: to train on.
        on_epoch: called with each epoch after the checkpoint of the epoch is published.

    Returns:
        The whole learning curve of the trial.

    Raises:
        HeldError: another process trains the trial, and has not ended within a minute.
    """
    parent, folder = plan.parent, checkpoints / plan.trial_id
    with exclusive(trial_lock(checkpoints, plan.trial_id), folder.name, patience_seconds=PATIENCE_SECONDS):
        sweep(folder / "last")
        sweep(folder / "best")
        return train_in_folder(
            plan,
            dataset,
            folder,
            epochs=epochs,
            device=device,
            backbone_weights=None if parent is None else lambda: _weights_of(checkpoints, parent),
            on_epoch=on_epoch,
        )


def _weights_of(checkpoints: Location, parent: WeightsId) -> Mapping[str, torch.Tensor]:
    if parent.trial_id == TRIAL:
        return read_initial(checkpoints.parent, parent)
    return read_best(checkpoints, parent)[1]


def trial_lock(checkpoints: Location, trial_id: str) -> Location:
    """The lock that the process that trains a trial holds."""
    return checkpoints.parent / "locks" / f"{trial_id}.lock"


def train_in_folder(
    plan: TrialPlan,
    dataset: Dataset,
    folder: Location | None,
    *,
    epochs: int,
    device: torch.device,
    backbone_weights: Callable[[], Mapping[str, torch.Tensor]] | None = None,
    on_epoch: Callable[[Epoch], None] = lambda row: None,
) -> tuple[Epoch, ...]:
    """Like :func:`run_trial`, with a folder of any name (None: nothing is saved) and the backbone's weights given.

    Args:
        backbone_weights: called for a new start only; None: the backbone starts from the seed. An output layer of other
            classes starts from the seed too.
    """
    assert plan.data_digest == dataset.info.digest, "the plan was made for other images"
    network = new_network(plan.network, dataset.info, plan.training.seed)
    found = _last_state(folder, network, partial=plan.training.mode == "normal") if folder else None
    resume, earlier = found or (None, ())
    first = len(resume.history) + 1 if resume else 1
    made_by = made_by_now(earlier, first, device=device_name(device), threads=str(torch.get_num_threads()))
    if resume is None and backbone_weights is not None:
        load_initial_weights(network, backbone_weights())
    network.to(device)

    def save_then_report(state: TrainingState) -> None:
        if folder:
            save(
                folder,
                network,
                state,
                settings=plan.network,
                training=plan.training,
                info=dataset.info,
                parent=plan.parent,
                made_by=made_by,
            )
        on_epoch(state.history[-1])

    return train(
        network,
        dataset,
        plan.training,
        epochs=epochs,
        resume=resume,
        on_epoch=save_then_report,
        images_that_reach=lambda: images_that_reach(network, dataset, plan),
    )


def _last_state(folder: Location, network: MultiExitNetwork, *, partial: bool) -> tuple[TrainingState, MadeBy] | None:
    """Load the last checkpoint of the trial into the network. A damaged checkpoint is set aside: the trial starts anew.

    Returns:
        The state of the training, and the versions that trained each epoch.
    """
    found = read_or_set_aside(folder, lambda: read(folder / "last"))
    if found is None:
        return None
    checkpoint, weights, optimizer = found
    load_weights(network, weights, partial=partial)
    return TrainingState(checkpoint.history, optimizer), checkpoint.made_by


def read_trial(plan: TrialPlan, checkpoints: Location) -> Checkpoint | None:
    """The description of the last checkpoint of a trial; None before the first epoch, or when damage was set aside."""
    folder = checkpoints / plan.trial_id

    def read_whole() -> Checkpoint | None:
        last = read_description(folder / "last")
        if last is not None and read_description(folder / "best") is None:
            raise DamagedError(f"{folder / 'best'} is missing beside {folder / 'last'}")
        return last

    return read_or_set_aside(folder, read_whole)
