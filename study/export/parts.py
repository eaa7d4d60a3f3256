"""The parts of a network that a policy may run, described: from one tried exit to the next, and the tried heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from study.data.loading import load_dataset
from study.data.settings import DataInfo, Dataset, DataSettings
from study.deploy.rule import Rule
from study.errors import UserError
from study.export.graphs import Description, Tensors, describe
from study.networks.inference_network import RunnableNetwork
from study.networks.multi_exit import MultiExitNetwork
from study.networks.precisions import FORMATS, INT8, Precision
from study.networks.quantization import prepare
from study.run.one_network import ImageSource
from study.storage.strict_json import from_fields
from study.traces.collect import ready


@dataclass(frozen=True)
class DescribedParts:
    """Parts and heads as plain values, with their tensors."""

    ends: list[int]
    """The exit that each part leads to; E + 1 is the classifier, whose logits are then the result."""
    parts: list[Description]
    heads: dict[int, Description]
    tensors: dict[str, Tensor]
    shapes: list[list[list[int]]]
    """The shapes of the inputs of each part, without the batch."""
    head_shapes: dict[int, list[int]]
    """Exit -> the shape of its feature map."""
    execution: str | None
    """How the study computed int8."""


class Run(nn.Module):
    """Segments in a row, and perhaps the classifier, from tensors to tensors."""

    def __init__(self, segments: list[Any], classifier: Any | None) -> None:
        super().__init__()
        self.segments, self.classifier = nn.ModuleList(segments), classifier

    def forward(self, *state: Tensor) -> tuple[Tensor, ...]:
        """The state behind the last segment, or the logits of the classifier."""
        for segment in self.segments:
            state = segment(state)
        return tuple(state) if self.classifier is None else (self.classifier(state),)


def describe_parts(runnable: RunnableNetwork, rule: Rule, told: Callable[[str], None]) -> DescribedParts:
    """Describe what a rule may run, and nothing else.

    Args:
        runnable: from :func:`plain_network`.
        rule: of the same network.
        told: gets the name of each part before it is described.

    Raises:
        UserError: a part computes something that a description cannot say.
    """
    last = runnable.exit_count + 1
    ends = sorted(rule.reachable)
    tensors = Tensors()
    state: tuple[Tensor, ...] = (torch.randn(2, *runnable.input_shape, generator=torch.Generator().manual_seed(0)),)
    done, parts, heads, shapes = 0, list[Description](), dict[int, Description](), list[list[list[int]]]()
    head_shapes: dict[int, list[int]] = {}
    for end in ends:
        what = f"the part from segment {done + 1} to {'the classifier' if end == last else f'exit {end}'}"
        told(what)
        segments = list(runnable.segments[done : min(end, last - 1)])
        module = Run(segments, runnable.classifier if end == last else None)
        parts.append(describe(module, state, tensors, what))
        shapes.append([list(one.shape[1:]) for one in state])
        with torch.no_grad():
            state = module(*state)
        if end != last:
            head: Any = runnable.exit_heads[end - 1]
            head_shapes[end] = list(state[0].shape[1:])
            heads[end] = describe(head, (state[0],), tensors, f"the head of exit {end}")
        done = end
    return DescribedParts(ends, parts, heads, tensors.by_name, shapes, head_shapes, runnable.int8_execution)


def plain_network(
    network: MultiExitNetwork, precision: Precision, info: DataInfo, source: ImageSource
) -> RunnableNetwork:
    """A network at a precision, as modules without kernels of a device.

    int8 reads the images of the data set: on those of the split ``calibration`` it finds the ranges of activations.

    Raises:
        UserError: the images are needed and are missing, or are not those of the training.
    """
    if FORMATS[precision].backbone is not INT8:
        return prepare(network, precision)
    dataset = _dataset(info, source)
    return ready(network, precision, dataset.calibration, info, lowered=False)


def _dataset(info: DataInfo, source: ImageSource) -> Dataset:
    settings = from_fields(DataSettings, info.settings)
    dataset = load_dataset(settings, source.data_root, download=source.download)
    if dataset.info.digest != info.digest:
        raise UserError(
            f"export: these {info.name} images are not those that the network was trained with (digest "
            f"{dataset.info.digest[:12]}, expected {info.digest[:12]}): int8 would find other ranges"
        )
    return dataset
