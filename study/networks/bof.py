"""Bag-of-Features pooling: a feature map becomes a histogram of learned codewords.

Source: Passalis et al., "Efficient adaptive inference for deep convolutional neural networks using
hierarchical early exits", Pattern Recognition 2020; used by Li et al., arXiv 2206.04685.
"""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALLEST_SUM = 1e-6
"""Smallest divisor of similarities. A pixel whose similarities sum to less is near no codeword; the smallest divisor
keeps the gradient finite. Half precision can represent the number too."""


class Codebook(nn.Module):
    """K codewords, the shape of their similarity function, and the scale of their histogram."""

    def __init__(self, channels: int, codewords: int) -> None:
        super().__init__()
        self.codewords = nn.Conv2d(channels, codewords, kernel_size=1)
        self.slope = nn.Parameter(torch.ones(()))
        self.shift = nn.Parameter(torch.zeros(()))
        self.scale = nn.Parameter(torch.tensor(float(codewords)))

    def forward(self, feature: Tensor, grid: int) -> Tensor:
        """Soft histograms of the codewords over each cell of a ``grid`` x ``grid`` grid.

        With x = codewords(feature), the similarity (tanh(slope x + shift) + 1) / 2 is normalised to sum 1 over
        the codewords at each pixel, times ``scale``, then averaged within each cell.

        Args:
            feature: [B, channels, H, W].
            grid: g.

        Returns:
            [B, K, g, g]; the sum over K is ``scale``.
        """
        # (tanh(z) + 1) / 2 = sigmoid(2 z), which takes one pass over the map and has no cancellation for negative z.
        if self.training:
            # Slope and shift are folded into the convolution: training on a 32 x 32 map takes 0.6 of the time.
            assert self.codewords.bias is not None
            weight = 2 * self.slope * self.codewords.weight
            bias = 2 * (self.slope * self.codewords.bias + self.shift)
            similarity = torch.sigmoid(functional.conv2d(feature, weight, bias))
            # The mean of the divided maps over a cell is a product with a matrix that holds the divisors. Neither the K
            # divided maps nor their gradients are written to memory.
            total = similarity.sum(dim=1).clamp_min(SMALLEST_SUM)
            cells = _cells(*feature.shape[2:], grid, device=feature.device)
            histogram = torch.bmm(similarity.flatten(2), cells / total.flatten(1)[:, :, None])
            return self.scale * histogram.reshape(len(feature), -1, grid, grid)
        # A separate convolution: quantizers overlook a convolution whose weight is computed. A compiler fuses it.
        similarity = torch.sigmoid(2 * (self.slope * self.codewords(feature) + self.shift))
        membership = similarity / similarity.sum(dim=1, keepdim=True).clamp_min(SMALLEST_SUM)
        # The scale commutes with the mean; behind the mean it multiplies g x g cells instead of the whole map.
        return self.scale * functional.adaptive_avg_pool2d(membership, grid)


@cache
def _cells(height: int, width: int, grid: int, *, device: torch.device) -> Tensor:
    """``[H * W, g * g]``: the weight of each pixel in the mean over each cell of adaptive average pooling."""
    with torch.inference_mode(False):
        # Computed on the device: a copy from the host would wait for the device. The mean over a cell is a mean over
        # rows and a mean over columns.
        rows, columns = (
            functional.adaptive_avg_pool1d(torch.eye(side, device=device)[None], grid)[0] for side in (height, width)
        )
        return torch.kron(rows, columns)
