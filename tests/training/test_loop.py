"""Training: what each mode moves, going on bit for bit, schedules, patience, divergence, seeds."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny_network import TINY, image_set

from study.data.batches import normalize
from study.data.settings import DataInfo, Dataset
from study.errors import UserError
from study.networks.construction import new_network
from study.networks.settings import HeadSettings, NetworkSettings
from study.training.learning_curves import best_epoch, outcome
from study.training.loop import Trainer, TrainingState, evaluate_split, train
from study.training.settings import TrainingSettings, epoch_seed, schedule_factor

GREY = {"channels": 1, "mean": (0.5,), "std": (0.3,), "settings": {}}
INFO = DataInfo(
    name="stripes", image_size=8, class_names=("a", "b", "c"), flip=True, crop_padding=1, digest="d", **GREY
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


DATASET = Dataset(info=INFO, train=image_set(46, 0), calibration=image_set(9, 1), validation=image_set(30, 2))


def network(head: str = "bof", seed: int = 0):
    settings = NetworkSettings(backbone=TINY, head=HeadSettings(kind=head, codewords=4))
    return new_network(settings, INFO, seed)


def settings(mode: str, **changed) -> TrainingSettings:
    base = {"batch_size": 20, "learning_rate": 0.01, "schedule": "constant", "precision": "fp32"}
    return TrainingSettings(mode=mode, **{**base, **changed})


def tensors(net, part: str) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items() if name.startswith(part)}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items())


def rows(history):
    return [replace(row, seconds=0.0) for row in history]


@pytest.mark.parametrize("head", ["bof", "linear", "conv", "separable"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_exits_mode_leaves_every_value_of_the_backbone_alone(head, precision, ema_decay):
    net = network(head)
    train(net, DATASET, settings("normal"), epochs=1)  # batch norm has statistics of its own now
    backbone, heads = tensors(net, "backbone."), tensors(net, "heads.")
    net.requires_grad_(True)
    asked = []
    net.heads.register_forward_pre_hook(lambda module, args: asked.append(args[0].requires_grad))
    history = train(net, DATASET, settings("exits", precision=precision, ema_decay=ema_decay), epochs=2)
    assert same(backbone, tensors(net, "backbone."))
    still = [name for name, p in net.heads.named_parameters() if torch.equal(p, heads[f"heads.{name}"])]
    assert not still
    assert asked and not any(asked), "no gradient can flow from a head into the backbone"
    assert history[0].classifier_accuracy == history[1].classifier_accuracy


@pytest.mark.parametrize("mode", ["normal", "original"])
def test_backbone_modes_leave_the_heads_alone(mode):
    net = network("conv")
    before = tensors(net, "")
    history = train(net, DATASET, settings(mode), epochs=1)
    assert same(tensors(net, "heads."), {n: v for n, v in before.items() if n.startswith("heads.")})
    assert all(not torch.equal(v, before[n]) for n, v in tensors(net, "backbone.").items())
    assert history[0].exit_accuracies == () and history[0].score == history[0].classifier_accuracy


def test_joint_mode_moves_both():
    net = network("conv")
    before = tensors(net, "")
    (row,) = train(net, DATASET, settings("joint"), epochs=1)
    assert all(not torch.equal(v, before[n]) for n, v in tensors(net, "").items())
    assert row.score == pytest.approx(np.mean(row.exit_accuracies)) and len(row.exit_accuracies) == 2


@pytest.mark.parametrize(
    ("optimizer", "mode", "ema_decay", "precision"),
    [
        ("adam", "normal", 0.0, "fp32"),
        ("adam", "exits", 0.8, "bf16"),
        ("adamw", "exits", 0.0, "fp32"),
        ("adamw", "joint", 0.8, "bf16"),
        ("sgd", "joint", 0.0, "bf16"),
        ("sgd", "normal", 0.8, "fp32"),
        ("muon", "joint", 0.8, "fp32"),
        ("muon", "exits", 0.0, "bf16"),
    ],
)
def test_going_on_from_any_epoch_repeats_an_uninterrupted_run(optimizer, mode, ema_decay, precision):
    changed = {"weight_decay": 0.01, "schedule": "cosine", "schedule_epochs": 3, "ema_decay": ema_decay}
    chosen = settings(mode, optimizer=optimizer, precision=precision, **changed)
    whole, saved = network("conv"), []

    def keep(state: TrainingState) -> None:
        saved.append((tensors(whole, ""), {n: v.clone() for n, v in state.optimizer.items()}, state.history))

    train(whole, DATASET, chosen, epochs=3, on_epoch=keep)
    for weights, optimizer_tensors, history in saved[:-1]:
        torch.manual_seed(len(history))  # what others drew meanwhile has no say
        net, states = network("conv", seed=5), []
        net.load_state_dict(weights)
        state = TrainingState(history, optimizer_tensors)
        train(net, DATASET, chosen, epochs=3, resume=state, on_epoch=states.append)
        assert same(tensors(net, ""), saved[-1][0])
        assert same(states[-1].optimizer, saved[-1][1])
        assert rows(states[-1].history) == rows(saved[-1][2])
    assert not same(saved[0][0], saved[-1][0])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_what_an_optimizer_is_given_back_lies_in_memory_as_its_weights_do(optimizer):
    net = network("conv").to(memory_format=torch.channels_last)
    trainer = Trainer(net, settings("joint", optimizer=optimizer), DATASET.info)
    images, labels = torch.from_numpy(DATASET.train.images), torch.from_numpy(DATASET.train.labels)
    trainer.run_epoch(images, labels, 1)
    stored = {name: value.contiguous() for name, value in trainer.state().items()}
    trainer.load_state(stored)
    for parameter, state in trainer.optimizer.state.items():
        moments = [value for value in state.values() if isinstance(value, torch.Tensor) and value.ndim]
        assert moments and all(value.stride() == parameter.stride() for value in moments)
    assert same(trainer.state(), stored)


def moving(net) -> dict[str, torch.Tensor]:
    return {name: value for name, value in tensors(net, "").items() if value.is_floating_point()}


@pytest.mark.parametrize("mode", ["normal", "original", "exits", "joint"])
@pytest.mark.parametrize("decay", [0.1, 0.35, 0.9])
def test_the_average_of_weights_is_that_of_a_plain_loop(mode, decay):
    net, steps = network("conv"), []
    trainer = Trainer(net, settings(mode, ema_decay=decay), INFO)
    average = moving(net)
    trainer.optimizer.register_step_post_hook(lambda *_: steps.append(moving(net)))
    images, labels = torch.from_numpy(DATASET.train.images), torch.from_numpy(DATASET.train.labels)
    for epoch in (1, 2, 3):
        trainer.run_epoch(images, labels, epoch)
    assert len(steps) == 9
    for step, live in enumerate(steps, start=1):
        kept = min(decay, (1 + step) / (10 + step))
        average = {name: kept * average[name] + (1 - kept) * value for name, value in live.items()}
    torch.testing.assert_close(moving(net), average, rtol=1e-5, atol=1e-6)
    assert not same(moving(net), steps[-1])


@pytest.mark.parametrize(
    ("mode", "parts"),
    [
        ("normal", {"backbone"}),
        ("original", {"backbone"}),
        ("exits", {"heads"}),
        ("joint", {"backbone", "heads"}),
    ],
)
def test_training_takes_no_notice_of_its_average(mode, parts):
    plain, averaged, states = network("conv"), network("conv"), []
    history = train(plain, DATASET, settings(mode), epochs=3, on_epoch=states.append)
    rows = train(averaged, DATASET, settings(mode, ema_decay=0.9), epochs=3, on_epoch=states.append)
    assert [row.train_loss for row in rows] == [row.train_loss for row in history]
    optimizer = {name: value for name, value in states[-1].optimizer.items() if not name.startswith("live.")}
    assert same(optimizer, states[2].optimizer), "without an average a checkpoint holds nothing else"
    live = {name[5:]: value for name, value in states[-1].optimizer.items() if name.startswith("live.")}
    assert {name.partition(".")[0] for name in live} == parts
    assert same({**tensors(averaged, ""), **live}, tensors(plain, ""))
    assert rows[-1].validation_loss != history[-1].validation_loss
    found = evaluate_split(averaged, DATASET.validation, INFO, settings(mode))
    assert rows[-1].validation_loss == found.loss, "what is scored is what the network holds"


def test_seeds_decide_the_weights():
    def trained(seed: int) -> dict[str, torch.Tensor]:
        net = network(seed=0)
        train(net, DATASET, settings("normal", seed=seed), epochs=1)
        return tensors(net, "backbone.")

    assert same(trained(1), trained(1)) and not same(trained(1), trained(2))
    assert same(tensors(network(seed=3), ""), tensors(network(seed=3), ""))
    assert not same(tensors(network(seed=3), ""), tensors(network(seed=4), ""))
    assert len({epoch_seed(seed, epoch) for seed in range(20) for epoch in range(1, 21)}) == 400


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, {0.0: 1.0, 3.7: 1.0, 99.0: 1.0}),
        ({"warmup_epochs": 2.0}, {0.0: 0.01, 0.5: 0.25, 1.5: 0.75, 2.0: 1.0, 9.0: 1.0}),
        ({"schedule": "cosine", "schedule_epochs": 4}, {0.0: 1.0, 1.0: 0.5 + 0.5**1.5, 2.0: 0.5, 4.0: 0.0, 9.0: 0.0}),
        ({"schedule": "cosine", "schedule_epochs": 5, "warmup_epochs": 1.0}, {0.5: 0.5, 1.0: 1.0, 3.0: 0.5, 5.0: 0.0}),
    ],
)
def test_schedules(changed, expected):
    chosen = settings("normal", **changed)
    assert {when: schedule_factor(chosen, when) for when in expected} == pytest.approx(expected)


def test_the_learning_rate_follows_the_schedule_batch_by_batch():
    chosen = settings("normal", schedule="cosine", schedule_epochs=2, learning_rate=0.1)
    history = train(network(), DATASET, chosen, epochs=2)
    # 46 images in batches of 20 are 3 batches: the last begins at two thirds of the epoch.
    expected = [0.1 * (1 + math.cos(math.pi * (done + 2 / 3) / 2)) / 2 for done in (0, 1)]
    assert [row.learning_rate for row in history] == pytest.approx(expected)


def test_exit_losses_are_weighed():
    def loss(base: float, slope: float) -> float:
        chosen = settings("exits", learning_rate=1e-30, exit_loss_base=base, exit_loss_slope=slope)
        return train(network(), DATASET, chosen, epochs=1)[0].train_loss

    exits_together, rising = loss(1.0, 0.0), loss(0.0, 1.0)
    assert loss(2.0, 0.0) == pytest.approx(2 * exits_together, rel=1e-5)
    assert loss(0.5, 3.0) == pytest.approx(0.5 * exits_together + 3 * rising, rel=1e-5)
    assert 0.5 * exits_together < rising < exits_together  # weights 1/2 and 1


def test_patience_stops_where_nothing_improves():
    chosen = settings("exits", learning_rate=1e-30, patience=2)
    net, called = network("linear"), []
    history = train(net, DATASET, chosen, epochs=9, on_epoch=called.append)
    assert len(history) == len(called) == 3 and best_epoch(history).epoch == 1
    assert outcome(history, epochs=9, patience=2) == "stopped_early"
    again = train(net, DATASET, chosen, epochs=9, resume=called[-1], on_epoch=lambda state: pytest.fail("trained"))
    assert again == history
    assert len(train(net, DATASET, replace(chosen, patience=3), epochs=9, resume=called[-1])) == 4


def test_a_run_that_diverges_ends_and_is_never_the_best():
    net, states = network(), []

    def poison(state: TrainingState) -> None:
        states.append(state)
        if len(states) == 2:
            net.backbone[0].weight.data.fill_(math.nan)

    history = train(net, DATASET, settings("normal"), epochs=9, on_epoch=poison)
    assert len(history) == 3 and math.isnan(history[2].score)
    assert outcome(history, epochs=9, patience=None) == "diverged"
    assert best_epoch(history).epoch in (1, 2) and not states[2].is_best
    resumed = train(net, DATASET, settings("normal"), epochs=9, resume=states[2])
    assert resumed == history


@pytest.mark.parametrize("batch_size", [20, 46])
def test_an_absurd_learning_rate_diverges_without_a_score(batch_size):
    """With one batch an epoch the first epoch's loss is still finite; its weights are not worth anything."""
    net = network()
    history = train(net, DATASET, settings("normal", learning_rate=1e30, batch_size=batch_size), epochs=5)
    assert outcome(history, epochs=5, patience=None) == "diverged"
    assert not math.isfinite(evaluate_split(net, DATASET.validation, INFO, settings("normal")).loss)
    assert all(math.isnan(row.score) for row in history if not math.isfinite(row.validation_loss))


def test_evaluation_equals_a_plain_count():
    net = network()
    train(net, DATASET, settings("joint"), epochs=2)
    result = evaluate_split(net, DATASET.validation, INFO, settings("joint"))
    pixels = (torch.from_numpy(DATASET.validation.images).float() / 255 - 0.5) / 0.3
    with torch.no_grad():
        answers = net.eval()(pixels).argmax(dim=2)
    expected = (answers == torch.from_numpy(DATASET.validation.labels)[:, None]).float().mean(dim=0)
    assert result.accuracies == pytest.approx(expected.tolist())
    alone = evaluate_split(net, DATASET.validation, INFO, settings("normal"))
    assert alone.accuracies == result.accuracies[-1:]


WRONG = [("mode", "frozen"), ("optimizer", "lion"), ("schedule", "step"), ("precision", "fp16")]
WRONG += [("batch_size", 0), ("batch_size", 1)]
WRONG += [("ema_decay", 1.0), ("ema_decay", -0.1), ("ema_decay", math.nan), ("label_smoothing", 1.0)]
WRONG += [("learning_rate", 0.0), ("learning_rate", math.nan), ("weight_decay", -1.0), ("momentum", 1.0)]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_settings_that_cannot_be_are_refused(name, value):
    with pytest.raises(UserError, match=rf"{name}.* must be ") as error:
        TrainingSettings(**{"mode": "normal", name: value})
    assert "\n" not in str(error.value)


def test_balanced_class_weights_come_from_the_training_labels():
    trainer = Trainer(network("linear"), settings("joint", class_weights="balanced"), INFO)
    images, labels = torch.from_numpy(DATASET.train.images), torch.zeros(46, dtype=torch.int64)
    labels[:12] = 1
    trainer.run_epoch(images, labels, 1)
    assert trainer.class_weights is not None
    assert trainer.class_weights.tolist() == pytest.approx([46 / (3 * 34), 46 / (3 * 12), 46 / 3])
    plain = Trainer(network("linear"), settings("joint"), INFO)
    plain.run_epoch(images, labels, 1)
    assert not same(tensors(trainer.network, ""), tensors(plain.network, ""))


def test_the_balanced_accuracy_of_a_split_is_the_mean_over_classes():
    net = network("linear").eval()
    result = evaluate_split(net, DATASET.validation, INFO, settings("joint"))
    with torch.no_grad():
        pixels = normalize(torch.from_numpy(DATASET.validation.images), INFO)
        right = net(pixels)[:, -1].argmax(dim=1).numpy() == DATASET.validation.labels
    expected = np.mean([right[DATASET.validation.labels == one].mean() for one in range(3)])
    assert result.balanced_accuracy == pytest.approx(expected)


def test_a_run_with_all_augmentations_goes_on_as_if_never_stopped():
    asked = {"crop_scale": 0.5, "color_jitter": 0.3, "rand_augment": 5, "cutout": 0.3, "mixup": 0.2}
    chosen = settings("joint", class_weights="balanced", **asked)
    states: list[TrainingState] = []
    whole = network("linear")
    full = train(whole, DATASET, chosen, epochs=2, on_epoch=states.append)
    first = network("linear")
    kept: list[TrainingState] = []
    train(first, DATASET, chosen, epochs=1, on_epoch=kept.append)
    resumed = train(first, DATASET, chosen, epochs=2, resume=kept[-1])
    assert rows(resumed) == rows(full) and same(tensors(first, ""), tensors(whole, ""))
