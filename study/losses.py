"""What training minimises: the loss of the classifier, of the exits, or of both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from study.networks.multi_exit import MultiExitNetwork
from study.recipes import TrainingSettings


def training_loss(network: MultiExitNetwork, images: Tensor, labels: Tensor, settings: TrainingSettings) -> Tensor:
    """The loss of a batch, with gradients for what the mode trains.

    In ``exits`` no gradient flows through the backbone: it runs without a record of its operations.

    Args:
        network: its parts in train or eval mode, as the mode of training has them.
        images: ``[B, channels, H, W]`` float.
        labels: ``[B]`` int64.
        settings: mode, weights, label smoothing, distillation.

    Returns:
        ``[]`` float32: the classifier's cross-entropy, or the weighted sum over the exits, and in ``joint`` both.
    """
    if not settings.trains_heads:
        return _cross_entropy(network.classify(images), labels, settings)
    joint = settings.mode == "joint"
    state: tuple[Tensor, ...] = (images,)
    features: list[Tensor] = []
    classified: Tensor | None = None
    with torch.set_grad_enabled(joint):
        for segment in network.segments:
            state = segment(state)
            features.append(state[0])
        if joint or settings.distillation:
            classified = network.classifier(state)
    teacher = _softened(classified.detach(), settings) if classified is not None and settings.distillation else None
    losses: list[Tensor] = []
    for exit, feature in enumerate(features, start=1):
        if joint and settings.exit_gradient != 1:
            feature = _ScaledGradient.apply(feature, settings.exit_gradient)
        logits = network.heads(feature, exit)
        loss = _cross_entropy(logits, labels, settings)
        if teacher is not None:
            # KL(teacher || exit), times the square of the temperature: its gradients then match those of the labels.
            apart = F.kl_div(_softened(logits, settings), teacher, reduction="batchmean", log_target=True)
            loss = (1 - settings.distillation) * loss + settings.distillation * settings.temperature**2 * apart
        weight = settings.exit_loss_base + settings.exit_loss_slope * exit / network.exit_count
        losses.append(weight * loss)
    if joint:
        assert classified is not None
        losses.append(_cross_entropy(classified, labels, settings))
    return torch.stack(losses).sum()


def _cross_entropy(logits: Tensor, labels: Tensor, settings: TrainingSettings) -> Tensor:
    return F.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)


def _softened(logits: Tensor, settings: TrainingSettings) -> Tensor:
    return F.log_softmax(logits.float() / settings.temperature, dim=1)


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, feature: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return feature.view_as(feature)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None
