"""The loss of training: of the classifier, of the exits, or of both."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from study.networks.multi_exit import MultiExitNetwork
from study.training.gradient_rules import GRADIENT_RULES, scaled_gradient
from study.training.settings import TrainingSettings


def training_loss(
    network: MultiExitNetwork,
    images: Tensor,
    labels: Tensor,
    settings: TrainingSettings,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Compute the loss of a batch, with gradients for the parts that the mode trains.

    In the mode ``exits``, the backbone runs without recording operations: no gradient flows through it.

    Args:
        network: each part in train or eval mode, according to the mode of training.
        images: ``[B, channels, H, W]`` float.
        labels: ``[B]`` classes, or ``[B, C]`` shares of classes.
        settings: of the training.
        class_weights: ``[C]``; None: every image weighs 1.
        labels: ``[B]`` int64.

    Returns:
        ``[]`` float32: the classifier's cross-entropy, or the weighted sum over the exits, or in ``joint`` both.
    """
    if not settings.trains_heads:
        return _cross_entropies(network.classify(images)[None], labels, settings, class_weights)[0]
    joint = settings.mode == "joint"
    rule = GRADIENT_RULES[settings.exit_gradient_rule]
    places = [rule(exit, network.exit_count + 1) for exit in range(1, network.exit_count + 1)]
    state: tuple[Tensor, ...] = (images,)
    features: list[Tensor] = []
    classified: Tensor | None = None
    with torch.set_grad_enabled(joint):
        for segment, factors in zip(network.segments, places, strict=True):
            state = segment(state)
            features.append(state[0])
            state = tuple(scaled_gradient(tensor, factors.of_trunk) for tensor in state)
        if joint or settings.distillation:
            classified = network.classifier(state)
    teacher = _softened(classified.detach(), settings) if classified is not None and settings.distillation else None
    features = [
        scaled_gradient(feature, settings.exit_gradient * factors.of_head)
        for feature, factors in zip(features, places, strict=True)
    ]
    logits = torch.stack([network.heads(feature, exit) for exit, feature in enumerate(features, start=1)])
    losses = _cross_entropies(logits, labels, settings, class_weights)
    if teacher is not None:
        # KL(teacher || exit) times the square of the temperature: gradients have the scale of those from labels.
        apart = F.kl_div(_softened(logits, settings), teacher.expand_as(logits), reduction="none", log_target=True)
        distances = settings.temperature**2 * apart.sum(dim=2).mean(dim=1)
        losses = losses.lerp(distances, settings.distillation)
    depths = torch.arange(1, network.exit_count + 1, device=losses.device) / network.exit_count
    loss = ((settings.exit_loss_base + settings.exit_loss_slope * depths) * losses).sum()
    if joint:
        assert classified is not None
        loss = loss + _cross_entropies(classified[None], labels, settings, class_weights)[0]
    return loss


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """``[C]``: N / (C n_c) for a class with n_c of the N labels, so that the mean weight of the images is 1."""
    return len(labels) / (classes * torch.bincount(labels, minlength=classes).clamp(min=1).float())


def _cross_entropies(
    logits: Tensor, labels: Tensor, settings: TrainingSettings, class_weights: Tensor | None
) -> Tensor:
    """``[E]`` of logits ``[E, B, C]``, in one call for all exits: a GPU computes it in few kernels."""
    exits, images, _ = logits.shape
    each = F.cross_entropy(
        logits.float().flatten(0, 1),
        labels.repeat(exits, *(1 for _ in labels.shape[1:])),
        weight=class_weights,
        label_smoothing=settings.label_smoothing,
        reduction="none",
    )
    return each.reshape(exits, images).mean(dim=1)


def _softened(logits: Tensor, settings: TrainingSettings) -> Tensor:
    return F.log_softmax(logits.float() / settings.temperature, dim=-1)
