"""The training loss: what each mode sends where, against sums and gradients taken by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from support.tiny_network import TINY

from study.errors import UserError
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.settings import HeadSettings, NetworkSettings
from study.training.loss import balanced_weights, training_loss
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
