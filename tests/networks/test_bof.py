"""Bag-of-Features pooling against a plain twin: one pixel at a time, in numpy and float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.laws import examples

from study.networks.bof import SMALLEST_SUM, Codebook


def plain_bof(codebook: Codebook, feature: torch.Tensor, grid: int) -> np.ndarray:
    """The formula as the paper writes it; the map's side must be a multiple of `grid`."""
    words = codebook.codewords.weight.detach().double().numpy()[:, :, 0, 0]
    bias = codebook.codewords.bias.detach().double().numpy()
    slope, shift, scale = codebook.slope.item(), codebook.shift.item(), codebook.scale.item()
    maps = feature.double().numpy()
    batch, _, height, width = maps.shape
    cell_height, cell_width = height // grid, width // grid
    pooled = np.zeros((batch, len(words), grid, grid))
    for sample in range(batch):
        for y in range(height):
            for x in range(width):
                proximity = words @ maps[sample, :, y, x] + bias
                similarity = (np.tanh(slope * proximity + shift) + 1) / 2
                histogram = scale * similarity / max(similarity.sum(), SMALLEST_SUM)
                pooled[sample, :, y // cell_height, x // cell_width] += histogram / (cell_height * cell_width)
    return pooled


@examples(25)
@given(
    seed=st.integers(0, 2**16),
    channels=st.integers(1, 6),
    codewords=st.integers(1, 9),
    grid=st.integers(1, 3),
    cell=st.integers(1, 3),
    slope=st.floats(-3, 3),
    shift=st.floats(-2, 2),
    training=st.booleans(),
)
def test_equals_the_plain_twin(seed, channels, codewords, grid, cell, slope, shift, training):
    torch.manual_seed(seed)
    codebook = Codebook(channels, codewords).train(training)
    with torch.no_grad():
        codebook.slope.fill_(slope)
        codebook.shift.fill_(shift)
        codebook.scale.fill_(1.5)
        feature = torch.randn(2, channels, grid * cell, grid * cell)
        pooled = codebook(feature, grid)
    np.testing.assert_allclose(pooled.numpy(), plain_bof(codebook, feature, grid), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width", "grid"), [(7, 5, 2), (32, 32, 1), (3, 3, 2), (2, 6, 3)])
def test_training_and_inference_average_the_same_cells(height, width, grid):
    torch.manual_seed(0)
    codebook, feature = Codebook(3, 8), torch.randn(2, 3, height, width)
    torch.testing.assert_close(codebook.train()(feature, grid), codebook.eval()(feature, grid))


def test_starts_at_the_papers_values_and_sums_to_the_number_of_codewords():
    codebook = Codebook(3, 64)
    assert (codebook.slope.item(), codebook.shift.item(), codebook.scale.item()) == (1.0, 0.0, 64.0)
    histogram = codebook(torch.randn(2, 3, 7, 7), 2)  # windows of a 7-pixel side overlap
    torch.testing.assert_close(histogram.sum(dim=1), torch.full((2, 2, 2), 64.0))


@pytest.mark.parametrize("training", [True, False])
def test_features_far_from_every_codeword_leave_values_and_gradients_finite(training):
    codebook = Codebook(2, 4).train(training)
    torch.nn.init.constant_(codebook.codewords.weight, -1.0)
    feature = torch.full((1, 2, 4, 4), 1e4, requires_grad=True)
    histogram = codebook(feature, 2)
    histogram.square().sum().backward()
    assert histogram.isfinite().all()
    assert feature.grad is not None and feature.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in codebook.parameters())


def test_training_and_evaluation_take_the_same_gradients():
    torch.manual_seed(0)
    codebook = Codebook(5, 8)
    with torch.no_grad():
        codebook.slope.fill_(0.7)
        codebook.shift.fill_(-0.3)
    feature = torch.randn(3, 5, 4, 4)

    def gradients() -> list[torch.Tensor]:
        return list(torch.autograd.grad(codebook(feature, 2).square().sum(), list(codebook.parameters())))

    torch.testing.assert_close(gradients(), (codebook.eval(), gradients())[1])
