"""Forward and backward pass as one CUDA graph.

A network with twenty exit heads runs thousands of small kernels a step; asking for each from Python takes longer than
the kernels do. A graph asks for all of them at once.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

_WARM_UP_STEPS = 3
"""Libraries choose their algorithms and allocate their workspaces before the capture."""


class GraphedBackward:
    """The gradients of a loss, captured once and replayed for other batches of the same shape.

    Args:
        loss_of: the loss of a batch, from tensors of the shapes of ``images`` and ``labels``; must not ask the host.
        module: what it runs, in the mode that it is to run in; its weights must stay where they are in memory.
        images, labels: a batch, on the current CUDA device.

    Raises:
        RuntimeError: an operation asks the host, or cannot be captured for another reason.
    """

    def __init__(
        self, loss_of: Callable[[Tensor, Tensor], Tensor], module: nn.Module, images: Tensor, labels: Tensor
    ) -> None:
        self.images, self.labels = images.clone(), labels.clone()
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
        try:
            # The first real batch then draws what it would have drawn without a warm-up.
            with torch.random.fork_rng(devices=[images.device]), _asking_the_host_is_an_error():
                self._warm_up(loss_of)
            self.graph = torch.cuda.CUDAGraph()
            _forget_gradients(self.parameters)  # the capture then makes its own, which every replay overwrites
            # What other threads of a worker do meanwhile is none of the capture's business.
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                loss = loss_of(self.images, self.labels)
                loss.backward()  # type: ignore[no-untyped-call]
            # The loss alone: with its history, later plain steps would meet the capture's stream in it.
            self.loss = loss.detach()
            self.gradients = [parameter.grad for parameter in self.parameters]
        finally:
            with torch.no_grad():
                for buffer, before in buffers:  # batch-norm statistics count each batch once
                    buffer.copy_(before)

    def _warm_up(self, loss_of: Callable[[Tensor, Tensor], Tensor]) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_STEPS):
                    _forget_gradients(self.parameters)
                    loss_of(self.images, self.labels).backward()  # type: ignore[no-untyped-call]
        finally:  # whatever it was given by then still runs, and writes to the module's buffers
            torch.cuda.current_stream().wait_stream(stream)

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Leave the gradients of a batch in the parameters; returns its loss, which the next call overwrites."""
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.loss


@contextlib.contextmanager
def _asking_the_host_is_an_error() -> Iterator[None]:
    """Found in the warm-up, it leaves the device as it was; in a capture it would break the device's random numbers.

    The mode is that of the whole process: nothing else of it may use the GPU meanwhile.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does not find everything: the capture finds the rest
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _forget_gradients(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None
