"""The parts of the recipe of airbench: Muon, batch norm's biases and scales, and the start of convolutions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.tiny_network import TINY, TINY_INFO, image_set
from torch import Tensor, nn

from study.networks.construction import new_network
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.settings import HeadSettings, NetworkSettings
from study.training.loop import Trainer
from study.training.muon import Muon, orthogonalized
from study.training.optimizer import make_optimizer
from study.training.settings import TrainingSettings

INFO = replace(TINY_INFO, flip=True, crop_padding=1)
SETTINGS = TrainingSettings(mode="joint", batch_size=32, optimizer="sgd", schedule="constant", precision="fp32")


def tiny() -> MultiExitNetwork:
    torch.manual_seed(0)
    settings = NetworkSettings(backbone=TINY, head=HeadSettings(kind="conv", conv_channels=4, conv_side=4))
    return build_network(settings, classes=3, image_size=8, channels=1)


def moved(**changes: object) -> dict[str, Tensor]:
    """How far one step moves each parameter."""
    network = tiny()
    before = {name: one.detach().clone() for name, one in network.named_parameters()}
    split = image_set(32, 0)
    trainer = Trainer(network, replace(SETTINGS, **changes), INFO)  # type: ignore[arg-type]
    trainer.run_epoch(torch.from_numpy(split.images), torch.from_numpy(split.labels), 1)
    return {name: one.detach() - before[name] for name, one in network.named_parameters()}


@pytest.mark.parametrize("shape", [(5, 5), (3, 20), (20, 3), (2, 4, 9)])
def test_orthogonalized_keeps_the_directions_and_evens_the_singular_values(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = orthogonalized(matrices)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    inside = left.mT @ found @ right.mT  # diagonal: the singular vectors are those of before
    values = inside.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(inside, torch.diag_embed(values), atol=1e-6, rtol=0)
    assert (values > 0.6).all() and (values < 1.3).all()
    assert orthogonalized(torch.zeros(3, 4)).isfinite().all()


@pytest.mark.parametrize("shape", [(6, 4), (4, 9)])
def test_the_step_on_a_kernel_is_that_of_torch_on_the_matrix(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), [torch.randn(shape) for _ in range(3)]
    kernel = nn.Parameter(start.reshape(*shape, 1, 1).clone(memory_format=torch.channels_last))
    matrix = nn.Parameter(start.clone())
    own = Muon([{"params": [kernel], "weight_decay": 0.1, "orthogonal": True}], 0.05, 0.9)
    theirs = torch.optim.Muon([matrix], lr=0.05, weight_decay=0.1, momentum=0.9)
    for gradient in gradients:
        kernel.grad, matrix.grad = gradient.reshape(*shape, 1, 1).clone(), gradient.clone()
        own.step()
        theirs.step()
    # torch iterates in bf16.
    torch.testing.assert_close(kernel.reshape(shape), matrix, atol=0.01, rtol=0)
    assert (kernel.detach().reshape(shape) - start).abs().max() > 0.05


def test_muon_takes_kernels_and_leaves_the_rest_to_sgd() -> None:
    plain, muon = moved(learning_rate=0.02), moved(learning_rate=0.02, optimizer="muon", kernel_rate=0.5)
    kernels = {name for name, one in plain.items() if one.ndim == 4}
    assert len(kernels) == 6  # two of the backbone, two of each head
    for name in plain.keys() - kernels:
        assert torch.equal(plain[name], muon[name]), name
    for name in kernels:
        step = muon[name].flatten(1)
        rows, columns = step.shape
        values = torch.linalg.svdvals(step) / (0.01 * max(1.0, rows / columns) ** 0.5)
        assert (values > 0.5).all() and (values < 1.3).all()


def test_biases_of_batch_norm_have_a_rate_of_their_own() -> None:
    plain, fast = moved(), moved(bias_rate=4.0)
    network = tiny()
    biases = {f"{name}.bias" for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    assert len(biases) == 6 and all(plain[name].any() for name in biases)
    for name, step in plain.items():
        torch.testing.assert_close(fast[name], step * (4.0 if name in biases else 1.0), atol=1e-7, rtol=1e-4)
    both = make_optimizer(network, replace(SETTINGS, bias_rate=4.0, backbone_rate=0.1, weight_decay=0.5))
    assert sorted({(group["scale"], group["weight_decay"]) for group in both.param_groups}) == [
        *((0.1, 0.0), (0.1, 0.5), (0.4, 0.0), (1.0, 0.0), (1.0, 0.5), (4.0, 0.0))
    ]


def test_scales_of_batch_norm_may_stay_as_they_start() -> None:
    trained, fixed = moved(), moved(norm_scales="fixed")
    scales = {f"{name}.weight" for name, layer in tiny().named_modules() if isinstance(layer, nn.BatchNorm2d)}
    for name, step in trained.items():
        assert torch.equal(fixed[name], torch.zeros_like(step) if name in scales else step), name
        assert step.any() or name not in scales


def test_convolutions_may_start_by_passing_their_inputs_on() -> None:
    settings = NetworkSettings(backbone="vgg11", width=0.125)
    about = replace(INFO, image_size=32)
    usual, dirac = (new_network(replace(settings, weight_init=one), about, 3) for one in ("usual", "dirac"))
    images = torch.randn(2, 1, 32, 32)
    first, own = usual.backbone.features[0], dirac.backbone.features[0]
    with torch.no_grad():
        torch.testing.assert_close(own(images)[:, :1], images)
    assert torch.equal(own.weight[1:], first.weight[1:]) and not torch.equal(own.weight[:1], first.weight[:1])
    other = {name for name, one in usual.named_parameters() if not torch.equal(one, dirac.get_parameter(name))}
    assert other == {
        f"backbone.{name}.weight" for name, layer in usual.backbone.named_modules() if isinstance(layer, nn.Conv2d)
    }


def test_each_image_is_mirrored_in_every_other_epoch() -> None:
    split = image_set(30, 0)
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    sides = torch.zeros(30, 2, dtype=torch.bool)
    trainer = Trainer(tiny(), replace(SETTINGS, mirroring="alternating", crop_padding=0), INFO)
    plain = trainer.augmentation.pixels
    for epoch in (1, 2):

        def told(batch: Tensor, generator: torch.Generator, flips: Tensor | None, epoch: int = epoch) -> Tensor:
            changed = plain(batch, generator, flips)
            for before, after in zip(batch, changed, strict=True):
                (place,) = (one for one, image in enumerate(images) if torch.equal(image, before))
                assert torch.equal(after, before) or torch.equal(after, before.flip(2))
                sides[place, epoch - 1] = torch.equal(after, before.flip(2))
            return changed

        trainer.augmentation.pixels = told  # type: ignore[method-assign]
        trainer.run_epoch(images, labels, epoch)
    assert (sides[:, 0] ^ sides[:, 1]).all() and 5 < sides[:, 0].sum() < 25
