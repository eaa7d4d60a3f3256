"""The loss of training: of the classifier, of the exits, or of both."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from study.networks.cascade import running_answers
from study.networks.multi_exit import MultiExitNetwork
from study.training.distillation import DISTANCES
from study.training.gradient_rules import GRADIENT_RULES, scaled_gradient
from study.training.settings import TrainingSettings


def training_loss(
    network: MultiExitNetwork,
    images: Tensor,
    labels: Tensor,
    settings: TrainingSettings,
    class_weights: Tensor | None = None,
    teacher: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Compute the loss of a batch, with gradients for the parts that the mode trains.

    In the mode ``exits``, the backbone runs without recording operations: no gradient flows through it.

    Args:
        network: each part in train or eval mode, according to the mode of training.
        images: ``[B, channels, H, W]`` float.
        labels: ``[B]`` classes, or ``[B, C]`` shares of classes.
        settings: of the training.
        class_weights: ``[C]``; None: every image weighs 1.
        teacher: ``[B, C]`` logits that exits learn from in the distillation; None: those of the classifier.
        weights: ``[E, B]`` of images in the losses of the exits; None: every image weighs 1.

    Returns:
        ``[]`` float32: the classifier's cross-entropy, or the weighted sum over the exits, or in ``joint`` both.
    """
    if not settings.trains_heads:
        return _cross_entropies(network.classify(images)[None], labels, settings, class_weights).mean(dim=1)[0]
    logits, classified = _answers(network, images, settings)
    if settings.difficulty:
        hardness = F.cross_entropy(classified.detach().float(), labels, reduction="none")
        by_difficulty = weights_by_difficulty(hardness, network.exit_count, settings.difficulty)
        weights = by_difficulty if weights is None else weights * by_difficulty
    losses = _means(_cross_entropies(logits, labels, settings, class_weights), weights)
    if settings.distillation:
        taught = (classified if teacher is None else teacher).detach()
        distances = _means(DISTANCES[settings.distillation_kind](logits, taught, labels, settings), weights)
        losses = losses.lerp(settings.temperature**2 * distances, settings.distillation)
    depths = torch.arange(1, network.exit_count + 1, device=losses.device) / network.exit_count
    loss = ((settings.exit_loss_base + settings.exit_loss_slope * depths) * losses).sum()
    if settings.mode == "joint":
        loss = loss + _cross_entropies(classified[None], labels, settings, class_weights).mean(dim=1)[0]
    return loss


def _answers(network: MultiExitNetwork, images: Tensor, settings: TrainingSettings) -> tuple[Tensor, Tensor]:
    """Logits of the exits ``[E, B, C]`` and of the classifier ``[B, C]``, which gradients leave by the settings."""
    rule = GRADIENT_RULES[settings.exit_gradient_rule]
    places = [rule(exit, network.exit_count + 1) for exit in range(1, network.exit_count + 1)]
    state: tuple[Tensor, ...] = (images,)
    features: list[Tensor] = []
    with torch.set_grad_enabled(settings.mode == "joint"):
        for segment, factors in zip(network.segments, places, strict=True):
            state = segment(state)
            features.append(state[0])
            state = tuple(scaled_gradient(tensor, factors.of_trunk) for tensor in state)
        classified: Tensor = network.classifier(state)
    features = [
        scaled_gradient(feature, settings.exit_gradient * factors.of_head)
        for feature, factors in zip(features, places, strict=True)
    ]
    logits = torch.stack([network.heads(one, exit) for exit, one in enumerate(features, start=1)])
    return running_answers(logits, network.cascade), classified


def weights_by_difficulty(hardness: Tensor, exits: int, strength: float) -> Tensor:
    """Weights of images in the losses of the exits: early exits weigh easy images more, late exits hard images.

    At exit l of E, the image with the n-th least loss of N weighs 1 + s (1 - 2 (l - 1) / E) (1 - 2 (n - 1) / (N - 1)):
    from 1 + s to 1 - s at the first exit. The mean weight at each exit is 1.

    The idea is that of Han et al., "Learning to Weight Samples for Dynamic Early-Exiting Networks", ECCV 2022: an exit
    should learn most from the images that stop there. There a second network learns the weights; this is a simple form
    without one, which takes the rank of the classifier's loss as the difficulty.

    Args:
        hardness: ``[N]``, losses of the classifier, at least two.
        exits: E.
        strength: s, from 0 to 1.

    Returns:
        ``[E, N]``.
    """
    ranks = hardness.argsort().argsort() / (len(hardness) - 1)
    depths = torch.arange(exits, device=hardness.device) / exits
    return 1 + strength * (1 - 2 * depths)[:, None] * (1 - 2 * ranks)


def weights_by_reach(reached: Tensor, strength: float) -> Tensor:
    """Weights of images in the losses of the exits: an exit weighs the images more that reach it under a rule.

    If a share m of the images reaches an exit, an image with r = 1 if it reaches the exit, else 0, weighs
    1 + s (r - m) / max(m, 1/10). The mean at each exit is 1. The tenth bounds the weights, so that few images do not
    decide alone; an exit that no image reaches weighs all images equally.

    Args:
        reached: ``[E, N]`` bool.
        strength: s, from 0 to 1.

    Returns:
        ``[E, N]`` float32.
    """
    share = reached.float().mean(dim=1, keepdim=True)
    return 1 + strength * (reached.float() - share) / share.clamp(min=0.1)


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """``[C]``: N / (C n_c) for a class with n_c of the N labels, so that the mean weight of the images is 1."""
    return len(labels) / (classes * torch.bincount(labels, minlength=classes).clamp(min=1).float())


def _cross_entropies(
    logits: Tensor, labels: Tensor, settings: TrainingSettings, class_weights: Tensor | None
) -> Tensor:
    """``[E, B]`` of logits ``[E, B, C]``, in one call for all exits: a GPU computes it in few kernels."""
    exits, images, _ = logits.shape
    each = F.cross_entropy(
        logits.float().flatten(0, 1),
        labels.repeat(exits, *(1 for _ in labels.shape[1:])),
        weight=class_weights,
        label_smoothing=settings.label_smoothing,
        reduction="none",
    )
    return each.reshape(exits, images)


def _means(values: Tensor, weights: Tensor | None) -> Tensor:
    """``[E]``: the means over the images of values ``[E, B]``."""
    return (values if weights is None else weights * values).mean(dim=1)
