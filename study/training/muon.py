"""Muon: SGD with Nesterov momentum whose steps on kernels are made orthogonal.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; on the kernels of a network for
CIFAR-10 in ``airbench94_muon`` (KellerJordan/cifar10-airbench). ``torch.optim.Muon`` has the same step, but takes
matrices alone, and no other group beside them: a kernel in the layout ``channels_last`` has no view as a matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that the singular values go through: steep at 0, then near 1."""
_STEPS = 5


def orthogonalized(matrices: Tensor) -> Tensor:
    """``[..., R, C]`` -> about U V^T of each matrix U S V^T: all singular values between about 0.7 and 1.2.

    Newton-Schulz iteration with a quintic. Its factors are polynomials of the Gram matrix, which all commute: the
    iteration multiplies R x R matrices alone, and the matrix itself once. O(R^2 C) with R <= C.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    values: Tensor = matrices.mT if tall else matrices
    values = values / values.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    gram = values @ values.mT
    factor = identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    first, third, fifth = _COEFFICIENTS
    for _ in range(_STEPS):
        step = first * identity + third * gram + fifth * gram @ gram
        factor = step @ factor
        gram = step @ gram @ step
    found = factor @ values
    return found.mT if tall else found


class Muon(torch.optim.SGD):
    """SGD with Nesterov momentum; in groups with ``orthogonal`` the step of a kernel ``[O, I, h, w]`` is orthogonal.

    The step on a kernel is that of SGD, as a matrix ``[O, I h w]`` made orthogonal and multiplied by
    sqrt(max(1, O / (I h w))). Its weight decay therefore does not pass through the momentum.

    Args:
        groups: of parameters, as of ``torch.optim.SGD``; ``orthogonal`` is false where it is left out.
        rate: learning rate.
        momentum: of all groups.
    """

    def __init__(self, groups: list[dict[str, Any]], rate: float, momentum: float) -> None:
        kernels = {"momentum": 0.0, "nesterov": False}  # SGD adds what is left in the gradients
        own = [{**group, **kernels} if group.get("orthogonal") else group for group in groups]
        super().__init__(own, lr=rate, momentum=momentum, nesterov=momentum > 0)
        self._momentum = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move the parameters; the gradients of kernels become their orthogonal steps."""
        groups = [group for group in self.param_groups if group.get("orthogonal")]
        kernels = [one for group in groups for one in group["params"] if one.grad is not None]
        for _, alike in groupby(sorted(kernels, key=_matrix_shape), key=_matrix_shape):
            self._make_orthogonal(list(alike))
        return super().step(closure)

    def _make_orthogonal(self, kernels: list[nn.Parameter]) -> None:
        """Replace the gradients of kernels of one shape of matrices."""
        steps = []
        for kernel in kernels:
            assert kernel.grad is not None, "others are left out"
            gathered = self.state[kernel].setdefault("momentum_buffer", torch.zeros_like(kernel))
            gathered.mul_(self._momentum).add_(kernel.grad)
            steps.append(kernel.grad.add(gathered, alpha=self._momentum).flatten(1))
        rows, columns = _matrix_shape(kernels[0])
        found = orthogonalized(torch.stack(steps).float()) * max(1.0, rows / columns) ** 0.5
        for kernel, step in zip(kernels, found, strict=True):
            kernel.grad = torch.empty_like(kernel).copy_(step.reshape(kernel.shape))


def _matrix_shape(kernel: Tensor) -> tuple[int, int]:
    return kernel.shape[0], kernel[0].numel()
