"""Training by a captured graph, where there is a GPU to capture on."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch

from study.data.settings import DataInfo
from study.networks import bof
from study.networks.multi_exit import build_network
from study.networks.settings import HeadSettings, NetworkSettings
from study.training.loop import Trainer, forbid_tf32
from study.training.settings import Mode, TrainingSettings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

INFO = DataInfo(
    name="synthetic",
    image_size=32,
    channels=3,
    class_names=("a", "b", "c"),
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
    flip=True,
    crop_padding=4,
    digest="",
    settings={},
)
LEVERS: dict[str, Any] = {
    "optimizer": "muon",
    "bias_rate": 2.0,
    "norm_scales": "fixed",
    "mirroring": "alternating",
    "exit_gradient_rule": "equilibrium",
    "distillation_kind": "decoupled",
    "teacher": "average",
    "difficulty": 0.5,
}


@pytest.mark.parametrize("mode", ["original", "exits", "joint"])
@pytest.mark.parametrize("head", ["bof", "conv"])
@pytest.mark.parametrize("levers", [{}, LEVERS], ids=["plain", "levers"])
def test_a_graph_trains_as_the_plain_step_does(mode: Mode, head: str, levers: dict[str, Any]) -> None:
    torch.manual_seed(0)
    forbid_tf32()
    settings = NetworkSettings(backbone="vgg11", width=0.25, head=HeadSettings(kind=head, conv_layers=4))  # type: ignore[arg-type]
    network = build_network(settings, classes=3, image_size=32, channels=3).cuda()
    usual: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.01, "distillation": 0.3, "ema_decay": 0.9}
    training = TrainingSettings(mode=mode, batch_size=16, precision="fp32", **(usual | levers))
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8).cuda()  # the last batch is a smaller one
    labels = torch.randint(0, 3, (40,)).cuda()
    trained = []
    bof._cells.cache_clear()  # a graph must do without what an earlier plain step has left
    for captures in (True, False):
        own = copy.deepcopy(network)
        trainer = Trainer(own, training, INFO)
        trainer.captures = captures
        losses = [trainer.run_epoch(images, labels, epoch) for epoch in (1, 2)]
        assert (trainer._graph is not None) == captures
        assert trainer.captures == captures, "nothing here needs the host"
        trained.append((losses, own.state_dict()))
    (losses, graphed), (plain_losses, plain) = trained
    assert losses == pytest.approx(plain_losses, rel=1e-2)
    for name, tensor in plain.items():
        difference = (graphed[name].double() - tensor.double()).norm() / tensor.double().norm().clamp_min(1e-3)
        assert difference < 2e-2, name


def test_what_cannot_be_captured_trains_without_a_graph() -> None:
    torch.manual_seed(0)
    network = build_network(NetworkSettings(backbone="vgg11", width=0.125), classes=3, image_size=32, channels=3).cuda()
    images = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8).cuda()
    labels = torch.zeros(32, dtype=torch.int64).cuda()
    trained = []
    for captures in (True, False):
        own = copy.deepcopy(network)
        own.segments[0].register_forward_hook(lambda module, inputs, output: output[0].sum().item() and None)
        trainer = Trainer(own, TrainingSettings(mode="joint", batch_size=16, precision="fp32"), INFO)
        trainer.captures = captures
        with pytest.warns(UserWarning, match="without a CUDA graph") if captures else contextlib.nullcontext():
            trainer.run_epoch(images, labels, 1)
        assert not trainer.captures
        trained.append(own.state_dict())
    assert torch.cuda.get_sync_debug_mode() == 0
    assert torch.rand(3, device="cuda").isfinite().all(), "the device goes on"
    for name, tensor in trained[1].items():
        torch.testing.assert_close(trained[0][name], tensor, rtol=1e-2, atol=1e-2, msg=name)
