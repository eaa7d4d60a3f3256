"""How far the answers of exits are from those of a teacher: the distances of distillation, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from search_spaces.settings import DistillationKind, TrainingFields

Distance: TypeAlias = Callable[[Tensor, Tensor, Tensor, TrainingFields], Tensor]
"""(logits ``[E, B, C]``, the teacher's logits ``[B, C]``, labels ``[B]``, settings) -> ``[E, B]``.

The caller multiplies by the square of the temperature: gradients then have the scale of those from labels (Hinton et
al., arXiv 1503.02531). The teacher's logits carry no gradient.
"""


def softened(logits: Tensor, teacher: Tensor, labels: Tensor, settings: TrainingFields) -> Tensor:
    """KL(teacher || exit) of the softmax of logits that are divided by the temperature.

    Source: Zhang et al., "Be Your Own Teacher", ICCV 2019, equation 2. Labels are not read.
    """
    pupils, taught = (_log_probabilities(one, settings) for one in (logits, teacher))
    return _divergence(pupils, taught.expand_as(pupils))


def decoupled(logits: Tensor, teacher: Tensor, labels: Tensor, settings: TrainingFields) -> Tensor:
    """``target_weight`` x KL of (label's class, all others) + ``other_weight`` x KL among the other classes.

    ``softened`` is the case of the weights 1 and 1 - p, where p is the probability of the label's class by the teacher:
    the surer the teacher is, the less its answers on other classes count there.

    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, equations 6 and 7; for the exits of one network
    with an averaged teacher Khazem, "SAFE-KD", arXiv 2602.03043.
    """
    pupils, taught = (_log_probabilities(one, settings) for one in (logits, teacher))
    taught = taught.expand_as(pupils)
    places = torch.arange(pupils.shape[2] - 1, device=labels.device)
    others = (places + (places >= labels[:, None])).expand(len(logits), -1, -1)  # all classes but the label's
    target = labels[:, None].expand(len(logits), -1, -1)

    def parts(values: Tensor) -> tuple[Tensor, Tensor]:
        """The pair of the label's class and all others, and the other classes among themselves."""
        rest = values.gather(2, others)
        share = rest.logsumexp(dim=2, keepdim=True)
        return torch.cat([values.gather(2, target), share], dim=2), rest - share

    of_target, of_others = (_divergence(*both) for both in zip(parts(pupils), parts(taught), strict=True))
    return settings.target_weight * of_target + settings.other_weight * of_others


DISTANCES: Mapping[DistillationKind, Distance] = {"softened": softened, "decoupled": decoupled}


def _log_probabilities(logits: Tensor, settings: TrainingFields) -> Tensor:
    return F.log_softmax(logits.float() / settings.temperature, dim=-1)


def _divergence(pupils: Tensor, taught: Tensor) -> Tensor:
    """KL(taught || pupils) ``[E, B]`` of logarithms of probabilities ``[E, B, C]``."""
    return F.kl_div(pupils, taught, reduction="none", log_target=True).sum(dim=2)
