"""FLOPs by the cost tables of the paper's published program: for comparison with the paper, never an objective.

Source: the program of Li et al., "Predictive Exit", arXiv 2206.04685. Its tables of computational cost differ from the
true count (:mod:`study.costs.flops`) by three errors, which this module reconstructs:

1. A convolution is priced without its kernel: H_out x W_out x C_in x C_out multiply-accumulates, whether 1x1 or 3x3.
2. A max-pool of C channels is priced as a convolution from C to C channels. In truth a max-pool multiplies nothing.
3. All stages of a ResNet are priced at the map of the first stage, as if no stage made the map smaller.

Heads are counted by the same rules; the heads of a ResNet on maps of the size of the first stage. Linear layers count
as in the true count. The unit is 2 x multiply-accumulates, as in the true count. Four other oddities of the tables are
left out: the tables omit all linear layers, hence the classifier; they price a skip without projection as one more
convolution; they price some pools of VGG-19 at the map before and some at the map behind; the third convolution of
VGG-19 reads 128 channels there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models.resnet import ResNet

from study.arrays import Floats
from study.costs.flops import run_with_calls
from study.networks.inference_network import eval_mode
from study.networks.multi_exit import MultiExitNetwork


def published_program_flops(network: MultiExitNetwork) -> tuple[Floats, Floats]:
    """Count the FLOPs of segments and heads for one image as the published program counts them.

    A network counts as a ResNet if its backbone is of torchvision's class ``ResNet``. In any other network, each layer
    is priced at its own map. Convolutions, max-pools and linear layers count if they are modules. The network stays
    unchanged.

    Returns:
        ``(segments [E+1], heads [E])``, the classifier as the last segment.
    """
    first_map = network.exit_shapes[0][1:]
    is_resnet = isinstance(network.backbone, ResNet)
    segments, heads = [], []
    state: Any = (torch.zeros(1, *network.input_shape, device=network.device),)
    with eval_mode(network), torch.no_grad():
        for exit, segment in enumerate(network.segments, start=1):
            flops, state = _price(segment, state, smallest_map=math.prod(first_map) if is_resnet else 0)
            segments.append(flops)
            feature = state[0].new_zeros(1, state[0].shape[1], *first_map) if is_resnet else state[0]
            heads.append(_price(network.heads, feature, exit)[0])
        segments.append(_price(network.classifier, state)[0])
    return np.array(segments), np.array(heads)


def _price(part: nn.Module, *arguments: object, smallest_map: int = 0) -> tuple[float, Any]:
    """Run a part; return its FLOPs and its output. A map is priced at ``smallest_map`` pixels or more."""
    calls, output = run_with_calls(part, *arguments)
    products = 0
    for layer, inputs, written in calls:
        if isinstance(layer, nn.Linear):
            products += layer.in_features * layer.out_features
        elif isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            products += max(smallest_map, math.prod(written.shape[2:])) * inputs[0].shape[1] * written.shape[1]
    return 2.0 * products, output
