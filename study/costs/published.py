"""FLOPs as the published program accounts for them, for comparison with the paper only: never an objective.

Source: the program of Li et al., "Predictive Exit", arXiv 2206.04685. Its tables of computational cost differ from the
true count (`study.costs.flops`) by three errors, which are reconstructed here:

1. A convolution is priced without its kernel: H_out x W_out x C_in x C_out multiply-accumulates, whether 1x1 or 3x3.
2. A max-pool is priced as if it were such a convolution, from its C channels to C channels. It multiplies nothing.
3. All stages of a ResNet are priced at the map of the first stage, as if none of them shrank it.

Heads are counted by the same rules, those of a ResNet on maps of its first stage's size. Linear layers count as they
are. The unit is that of the true count, 2 x multiply-accumulates. What else is odd in those tables is left out here:
they omit all linear layers, hence the classifier; they price a skip without projection as one more convolution; they
price some of VGG-19's pools at the map before, some at the map behind; its third convolution reads 128 channels there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from study.arrays import Floats
from study.networks.multi_exit import MultiExitNetwork


def published_flops(network: MultiExitNetwork) -> tuple[Floats, Floats]:
    """What the segments and the heads of a network would cost by the published accounting, for one image.

    A network is taken for a ResNet if its backbone is one of torchvision's class; in any other, each layer is priced at
    its own map. Convolutions, max-pools and linear layers count where they are modules. The network is left unchanged.

    Returns:
        ``(segments [E+1], heads [E])``, the classifier as the last segment.
    """
    first_map = network.exit_shapes[0][1:]
    is_resnet = isinstance(network.backbone, ResNet)
    was_training = network.training
    network.eval()
    segments, heads = [], []
    state: Any = (torch.zeros(1, *network.input_shape, device=next(network.parameters()).device),)
    with torch.no_grad():
        for exit, segment in enumerate(network.segments, start=1):
            flops, state = _price(segment, state, smallest_map=math.prod(first_map) if is_resnet else 0)
            segments.append(flops)
            feature = state[0].new_zeros(1, state[0].shape[1], *first_map) if is_resnet else state[0]
            heads.append(_price(network.heads, feature, exit)[0])
        segments.append(_price(network.classifier, state)[0])
    network.train(was_training)
    return np.array(segments), np.array(heads)


def _price(part: nn.Module, *arguments: object, smallest_map: int = 0) -> tuple[float, Any]:
    """Run a part; returns its FLOPs, with no map priced at fewer than ``smallest_map`` pixels, and its output."""
    products: list[int] = []

    def price(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Linear):
            products.append(layer.in_features * layer.out_features)
        elif isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            pixels = max(smallest_map, math.prod(output.shape[2:]))
            products.append(pixels * inputs[0].shape[1] * output.shape[1])

    hooks = [layer.register_forward_hook(price) for layer in part.modules()]
    try:
        output = part(*arguments)
    finally:
        for hook in hooks:
            hook.remove()
    return 2.0 * sum(products), output
