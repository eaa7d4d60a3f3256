"""Forward and backward pass as one CUDA graph.

A network with twenty exit heads runs thousands of small kernels in a step. To launch them one by one from Python takes
longer than to compute them. A graph launches all kernels at once.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

_WARM_UP_STEPS = 3
"""Steps before the capture, in which libraries choose algorithms and allocate workspaces."""


class GraphedBackward:
    """The gradients of a loss, captured once and replayed for other batches of the same shape.

    Args:
        loss_of: computes the loss of a batch, from tensors of the shapes of ``batch``. It must not wait for the device.
        module: the network, in the mode of the training; its weights must keep their addresses in memory.
        batch: images, labels and what else the loss reads, on the current CUDA device.

    Raises:
        RuntimeError: an operation waits for the device, or cannot be captured for another reason.
    """

    def __init__(self, loss_of: Callable[..., Tensor], module: nn.Module, *batch: Tensor) -> None:
        self.batch = tuple(one.clone() for one in batch)
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
        try:
            # With the fork, the first real batch draws the same random numbers as without a warm-up.
            with torch.random.fork_rng(devices=[batch[0].device]), _waiting_for_the_device_is_an_error():
                self._warm_up(loss_of, module)
            self.graph = torch.cuda.CUDAGraph()
            module.zero_grad()  # the capture allocates new gradients, which each replay overwrites
            # Work of other threads of this process must not end up in the capture.
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                loss = loss_of(*self.batch)
                loss.backward()  # type: ignore[no-untyped-call]
            # Detached: with the history of the loss, later steps without a graph would touch the capture's stream.
            self.loss = loss.detach()
            self.gradients = [parameter.grad for parameter in self.parameters]
        finally:
            with torch.no_grad():
                for buffer, before in buffers:  # the first batch must count only once in batch-norm statistics
                    buffer.copy_(before)

    def _warm_up(self, loss_of: Callable[..., Tensor], module: nn.Module) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_STEPS):
                    module.zero_grad()
                    loss_of(*self.batch).backward()  # type: ignore[no-untyped-call]
        finally:  # after an error, queued kernels still run and write to the buffers of the module
            torch.cuda.current_stream().wait_stream(stream)

    def __call__(self, *batch: Tensor) -> Tensor:
        """Leave the gradients of a batch in the parameters; return the loss, which the next call overwrites."""
        for own, one in zip(self.batch, batch, strict=True):
            own.copy_(one)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.loss


@contextlib.contextmanager
def _waiting_for_the_device_is_an_error() -> Iterator[None]:
    """Raise an error where the host waits for the device.

    An error in the warm-up leaves the device unchanged; an error in a capture would break the random numbers of the
    device. The mode holds for the whole process: no other thread may use the GPU meanwhile.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(action="ignore"):  # "the mode misses some waits"; the capture finds the rest
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
