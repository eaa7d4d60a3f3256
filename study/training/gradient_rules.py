"""What share of the gradients of exits and of later segments reaches the segments before them, in joint training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from search_spaces.settings import ExitGradientRule


@dataclass(frozen=True)
class GradientFactors:
    """Factors at the place where the head of an exit branches off the backbone."""

    of_head: float
    """On the gradient that flows from the head into the backbone."""
    of_trunk: float
    """On the gradient that flows from the next segment into the segments up to the exit."""


GradientRule: TypeAlias = Callable[[int, int], GradientFactors]
"""(exit from 1, number of outputs: exits and classifier) -> factors."""


def constant(exit: int, outputs: int) -> GradientFactors:
    """The gradient of a segment is the sum over all outputs behind the segment."""
    return GradientFactors(1.0, 1.0)


def equilibrium(exit: int, outputs: int) -> GradientFactors:
    """Gradient equilibrium: at exit l of L outputs, 1 / (L - l + 1) from the head and (L - l) / (L - l + 1) behind it.

    The factors of the places l, ..., j between a segment l and an output j multiply to 1 / (L - l + 1), whatever j is:
    the gradient of a segment is that of the constant rule divided by the number of outputs that share the segment, and
    its norm does not grow with their number. The weights of the heads learn at the full rate.

    Source: Li et al., "Improved Techniques for Training Adaptive Deep Networks", ICCV 2019. The gradient rescaling of
    BoostNet (Yu et al., "Boosted Dynamic Neural Networks", AAAI 2023), which divides the gradient of block n of N by
    N - n + 1, gives the same gradients.
    """
    sharing = outputs - exit + 1
    return GradientFactors(1 / sharing, (sharing - 1) / sharing)


GRADIENT_RULES: Mapping[ExitGradientRule, GradientRule] = {"constant": constant, "equilibrium": equilibrium}


def scaled_gradient(values: Tensor, factor: float) -> Tensor:
    """The same values; the gradient that flows back through them is multiplied by a factor."""
    if factor == 1 or not values.requires_grad:
        return values
    view = values.view_as(values)
    view.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]
    return view
