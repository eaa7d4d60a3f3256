"""The training loss: what each mode sends where, against sums and gradients taken by hand."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from support.tiny_network import TINY, TINY_INFO, image_set

from study.errors import UserError
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.settings import HeadSettings, NetworkSettings
from study.training.distillation import decoupled, softened
from study.training.loop import Trainer, autocast
from study.training.loss import balanced_weights, training_loss, weights_by_difficulty
from study.training.settings import TrainingSettings

JOINT = TrainingSettings(mode="joint", exit_loss_base=0.3, exit_loss_slope=0.5)
IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture
def network() -> MultiExitNetwork:
    torch.manual_seed(0)
    settings = NetworkSettings(backbone=TINY, head=HeadSettings(kind="linear"))
    return build_network(settings, classes=3, image_size=8, channels=1).eval()  # no statistics that move


def gradients(network: MultiExitNetwork, settings: TrainingSettings) -> dict[str, torch.Tensor]:
    network.zero_grad(set_to_none=True)
    training_loss(network, IMAGES, LABELS, settings).backward()
    return {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}


def logits_of(network: MultiExitNetwork) -> np.ndarray:
    with torch.no_grad():
        return network(IMAGES).double().numpy()


def test_joint_is_the_weighted_sum_over_exits_and_the_classifier(network: MultiExitNetwork) -> None:
    logits = log_softmax(logits_of(network), axis=2)
    each = -logits[np.arange(6), :, LABELS.numpy()].mean(axis=0)  # [E+1]
    exits = network.exit_count
    weights = [0.3 + 0.5 * exit / exits for exit in range(1, exits + 1)]
    expected = float(np.dot([*weights, 1.0], each))
    assert training_loss(network, IMAGES, LABELS, JOINT).item() == pytest.approx(expected, rel=1e-5)
    alone = training_loss(network, IMAGES, LABELS, replace(JOINT, mode="exits"))
    assert alone.item() == pytest.approx(expected - each[-1], rel=1e-5)


@pytest.mark.parametrize("share", [0.4, 1.0])
@pytest.mark.parametrize("mode", ["exits", "joint"])
def test_distillation_compares_exits_with_the_softened_classifier(
    network: MultiExitNetwork, share: float, mode: str
) -> None:
    logits, temperature = logits_of(network), 2.5
    labels = -log_softmax(logits, axis=2)[np.arange(6), :, LABELS.numpy()].mean(axis=0)
    teacher, pupils = logits[:, -1:] / temperature, logits[:, :-1] / temperature
    divergence = (softmax(teacher, 2) * (log_softmax(teacher, 2) - log_softmax(pupils, 2))).sum(2).mean(0)
    each = (1 - share) * labels[:-1] + share * temperature**2 * divergence
    expected = float(each.sum() + (labels[-1] if mode == "joint" else 0))
    settings = TrainingSettings(mode=mode, distillation=share, temperature=temperature)  # type: ignore[arg-type]
    assert training_loss(network, IMAGES, LABELS, settings).item() == pytest.approx(expected, rel=1e-5)


def decoupled_by_hand(logits: np.ndarray, temperature: float, target: float, others: float) -> np.ndarray:
    """``[6, E]``: the decoupled distance of each exit, by the definition in probabilities."""
    probabilities = softmax(logits / temperature, axis=2)
    found = np.zeros((6, logits.shape[1] - 1))
    for image, exit in np.ndindex(found.shape):
        label, p, q = int(LABELS[image]), probabilities[image, -1], probabilities[image, exit]
        pair_p, pair_q = (np.array([one[label], 1 - one[label]]) for one in (p, q))
        rest_p, rest_q = (np.delete(one, label) / (1 - one[label]) for one in (p, q))
        found[image, exit] = target * (pair_p * np.log(pair_p / pair_q)).sum()
        found[image, exit] += others * (rest_p * np.log(rest_p / rest_q)).sum()
    return found


def test_decoupled_distillation_compares_the_class_of_the_label_and_the_others_apart(network: MultiExitNetwork) -> None:
    settings = replace(JOINT, mode="exits", exit_loss_base=1.0, exit_loss_slope=0.0, distillation=1.0, temperature=2.0)
    apart = replace(settings, distillation_kind="decoupled", target_weight=0.7, other_weight=3.0)
    expected = 4 * decoupled_by_hand(logits_of(network), 2.0, 0.7, 3.0).mean(axis=0).sum()
    assert training_loss(network, IMAGES, LABELS, apart).item() == pytest.approx(float(expected), rel=1e-4)


def test_the_softened_distance_is_a_case_of_the_decoupled_one(network: MultiExitNetwork) -> None:
    with torch.no_grad():
        logits = network(IMAGES).transpose(0, 1)
    for label in range(3):  # of one label the teacher's probability is a number for each image
        labels = torch.full((6,), label)
        sure = torch.softmax(logits[-1] / JOINT.temperature, 1)[:, label]
        parts = [
            decoupled(logits[:-1], logits[-1], labels, replace(JOINT, target_weight=one, other_weight=1.0 - one))
            for one in (1.0, 0.0)
        ]
        whole = softened(logits[:-1], logits[-1], labels, JOINT)
        torch.testing.assert_close(parts[0] + (1 - sure) * parts[1], whole, rtol=1e-4, atol=1e-6)


def test_decoupled_distillation_needs_one_label_an_image() -> None:
    with pytest.raises(UserError, match="distillation_kind decoupled needs one label an image: set mixup to 0"):
        replace(JOINT, distillation=0.5, distillation_kind="decoupled", mixup=0.2)
    replace(JOINT, distillation_kind="decoupled", mixup=0.2)  # nothing is distilled


def test_early_exits_weigh_easy_images_more_and_late_exits_hard_ones(network: MultiExitNetwork) -> None:
    weights = weights_by_difficulty(torch.tensor([0.3, 0.1, 0.9]), 4, 0.5)
    expected = [[1, 1.5, 0.5], [1, 1.25, 0.75], [1, 1, 1], [1, 0.75, 1.25]]
    torch.testing.assert_close(weights, torch.tensor(expected))
    logits = log_softmax(logits_of(network), axis=2)
    each = -logits[np.arange(6), :, LABELS.numpy()]  # [6, E+1]
    by_hand = weights_by_difficulty(torch.from_numpy(each[:, -1]), 2, 0.8).numpy()
    found = training_loss(network, IMAGES, LABELS, TrainingSettings(mode="joint", difficulty=0.8)).item()
    assert found == pytest.approx(float((by_hand.T * each[:, :-1]).mean(0).sum() + each[:, -1].mean()), rel=1e-5)
    assert training_loss(network, IMAGES, LABELS, TrainingSettings(mode="joint")).item() != pytest.approx(found)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_exits_learn_from_the_classifier_of_the_averaged_weights(precision: str) -> None:
    torch.manual_seed(0)
    network = build_network(
        NetworkSettings(backbone=TINY, head=HeadSettings(kind="linear")), classes=3, image_size=8, channels=1
    )
    settings = TrainingSettings(
        mode="joint", distillation=0.6, teacher="average", ema_decay=0.9, learning_rate=0.05, precision=precision
    )  # type: ignore[arg-type]
    split = image_set(60, 0)
    trainer = Trainer(network, settings, TINY_INFO)
    trainer.run_epoch(torch.from_numpy(split.images), torch.from_numpy(split.labels), 1)
    averaged = copy.deepcopy(network).eval()
    with trainer.average.live():
        network.zero_grad()  # of the epoch
        live = copy.deepcopy(network)
        trainer.set_mode()
        own = trainer._loss(IMAGES, LABELS)
        own.backward()  # type: ignore[no-untyped-call]
    assert any(not torch.equal(one, other) for one, other in zip(averaged.parameters(), live.parameters(), strict=True))
    live.train()
    with autocast(torch.device("cpu"), settings.precision), torch.no_grad():
        teacher = averaged.classify(IMAGES)
    with autocast(torch.device("cpu"), settings.precision):
        plain = training_loss(live, IMAGES, LABELS, settings, teacher=teacher)
    plain.backward()  # type: ignore[no-untyped-call]
    assert own.item() == plain.item()
    for parameter, expected in zip(network.parameters(), live.parameters(), strict=True):
        assert parameter.grad is not None and torch.equal(parameter.grad, expected.grad)
    with pytest.raises(UserError, match="teacher average needs an average of the weights: set ema_decay above 0"):
        replace(settings, ema_decay=0.0)


def test_the_teacher_learns_nothing_from_its_pupils(network: MultiExitNetwork) -> None:
    plain = gradients(network, TrainingSettings(mode="original"))
    taught = gradients(network, replace(JOINT, distillation=0.7, exit_gradient=0.0))
    for name in (name for name in plain if name.startswith("backbone.")):
        torch.testing.assert_close(taught[name], plain[name])


@pytest.mark.parametrize("factor", [0.0, 0.25])
def test_the_gradient_of_the_exits_is_scaled_in_the_backbone_alone(network: MultiExitNetwork, factor: float) -> None:
    classifier, whole = gradients(network, TrainingSettings(mode="original")), gradients(network, JOINT)
    scaled = gradients(network, replace(JOINT, exit_gradient=factor))
    assert scaled.keys() == whole.keys()
    for name, value in scaled.items():
        expected = whole[name]
        if name.startswith("backbone."):
            expected = classifier[name] + factor * (whole[name] - classifier[name])
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_equilibrium_divides_the_gradient_of_a_segment_by_the_outputs_that_share_it(
    network: MultiExitNetwork, factor: float
) -> None:
    plain = gradients(network, replace(JOINT, exit_gradient=factor))
    scaled = gradients(network, replace(JOINT, exit_gradient=factor, exit_gradient_rule="equilibrium"))
    first, second = ({id(p) for p in segment.parameters()} for segment in network.segments)
    for name, parameter in network.named_parameters():
        sharing = 3 if id(parameter) in first else 2 if id(parameter) in second else 1  # two exits, one classifier
        torch.testing.assert_close(scaled[name], plain[name] / sharing, rtol=1e-4, atol=1e-6)


def test_equilibrium_scales_what_skips_segments_once_at_each_exit() -> None:
    torch.manual_seed(0)
    settings = NetworkSettings(backbone="resnet18", width=0.0625, head=HeadSettings(kind="linear"))
    network = build_network(settings, classes=3, image_size=8, channels=1).eval().double()
    with torch.no_grad():  # branches that are as strong as the skips
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)

    def found(**changes: object) -> dict[str, torch.Tensor]:
        network.zero_grad(set_to_none=True)
        training_loss(network, IMAGES.double(), LABELS, replace(JOINT, **changes)).backward()  # type: ignore[arg-type]
        return {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}

    plain, scaled = found(), found(exit_gradient_rule="equilibrium")
    for number, segment in enumerate(network.segments, start=1):
        own = {id(parameter) for parameter in segment.parameters()}
        for name in (name for name, parameter in network.named_parameters() if id(parameter) in own):
            sharing = network.exit_count + 2 - number
            torch.testing.assert_close(scaled[name] * sharing, plain[name], rtol=1e-4, atol=1e-6)


def test_heads_alone_leave_the_backbone_without_gradients(network: MultiExitNetwork) -> None:
    found = gradients(network, replace(JOINT, mode="exits", distillation=0.5))
    assert found and all(name.startswith("heads.") for name in found)


@pytest.mark.parametrize(("name", "value"), [("distillation", 1.5), ("temperature", 0.0), ("exit_gradient", -1.0)])
def test_impossible_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=name):
        replace(JOINT, **{name: value})  # type: ignore[arg-type]


def test_balanced_weights_give_each_class_the_same_weight(network: MultiExitNetwork) -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 2])
    weights = balanced_weights(labels, 3)
    assert weights.tolist() == pytest.approx([0.5, 2, 2]) and weights[labels].mean().item() == pytest.approx(1)
    logits = log_softmax(logits_of(network), axis=2)[:, -1]
    expected = np.mean([-logits[labels.numpy() == one, one].mean() for one in range(3)])
    original = TrainingSettings(mode="original", class_weights="balanced")
    assert training_loss(network, IMAGES, labels, original, weights).item() == pytest.approx(float(expected), rel=1e-5)


def test_shares_of_classes_are_the_mean_of_their_losses(network: MultiExitNetwork) -> None:
    """What mixed images have in place of a label."""
    other = LABELS.flip(0)
    shares = 0.3 * torch.nn.functional.one_hot(LABELS, 3) + 0.7 * torch.nn.functional.one_hot(other, 3)
    for weights in (None, torch.tensor([0.5, 1.0, 2.0])):
        apart = [training_loss(network, IMAGES, labels, JOINT, weights).item() for labels in (LABELS, other)]
        mixed = training_loss(network, IMAGES, shares, JOINT, weights).item()
        assert mixed == pytest.approx(0.3 * apart[0] + 0.7 * apart[1], rel=1e-5)
