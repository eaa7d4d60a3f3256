"""int8 parts run by integer kernels, with the numbers of the study's own lowering."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.exports import export_of, small_network
from support.tiny_network import TINY

from study import EarlyExit, Placed
from study.deploy.int8_kernels import integer_calls
from study.deploy.modules import graph_module
from study.deploy.torch_parts import Part
from study.networks.precisions import Precision
from study.networks.quantization import int8_execution, prepare

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(int8_execution(CPU) == "simulated", reason="this CPU has no integer kernels for int8")


@pytest.mark.parametrize(
    ("backbone", "precision", "tried"),
    [(TINY, "int8_all", [1, 2]), pytest.param("resnet18", "int8", [2, 3, 7], marks=pytest.mark.slow)],
)
def test_every_convolution_and_linear_layer_is_an_integer_operation(
    backbone: str, precision: Precision, tried: list[int]
) -> None:
    network = small_network(backbone, "conv", channels=3)
    torch.manual_seed(1)
    images = torch.randn(24, *network.input_shape)
    policy, thresholds = Placed(2.0, tried, "max_softmax"), np.ones(network.exit_count)  # no image stops
    plain = prepare(network, precision, calibration=images, lowered=False)
    export = export_of(plain, policy, thresholds)
    of_study = prepare(network, precision, calibration=images)
    model = EarlyExit(export, CPU, compile=False, compact_below=1.0)
    state, reached, added = (images,), (images,), 0
    with torch.no_grad():
        for number, (raw, run) in enumerate(zip(export.parts, model.network.parts, strict=True)):
            part = Part(raw, export.tensors)
            operations = [str(node.target) for node in graph_module(part, kernels=True).graph.nodes]
            assert not any("aten.conv" in one or "aten.linear" in one for one in operations)
            assert all("dequantize_channels" not in one for one in operations)
            added += sum("_convolved_onto" in one for one in operations)
            state = run(*state)
            if number < len(tried):
                for segment in of_study.segments[tried[number - 1] if number else 0 : tried[number]]:
                    reached = segment(reached)
                torch.testing.assert_close(state[0], reached[0], rtol=0, atol=0)
                exit = tried[number]
                torch.testing.assert_close(
                    model.network.heads[exit](state[0]), of_study.exit_heads[exit - 1](reached[0])
                )
    assert (added > 0) == (backbone == "resnet18"), "skip connections are added by the kernel"
    simulated = Part(export.parts[0], export.tensors)(images)[0]
    scale = float(simulated.abs().max())
    torch.testing.assert_close(model.network.parts[0](images)[0], simulated, rtol=0, atol=0.02 * scale)


KIND = {"dtype": "uint8"}
RELU = ["r", "relu.default", [{"value": "c"}], {}]


def rounding(source: str, number: int, *range: float) -> list[list[object]]:
    """The steps ``q<number>`` and ``d<number>``: quantize and dequantize."""
    return [
        [f"q{number}", "quantize_per_tensor.default", [{"value": source}, *range, KIND], {}],
        [f"d{number}", "dequantize_per_tensor.default", [{"value": f"q{number}"}, *range, KIND], {}],
    ]


def adding(other: str) -> list[object]:
    return ["s", "add.Tensor", [{"value": "c"}, {"value": other}], {}]


def part_with(behind: list[list[object]], result: str) -> Part:
    """A convolution of integers, and steps behind it; ``y`` is another input, ``d1`` its rounded form."""
    tensors = {
        "w": torch.randint(-127, 128, (4, 3, 3, 3), dtype=torch.int8),
        "scales": torch.full((4,), 0.01),
        "zeros": torch.zeros(4, dtype=torch.int64),
        "bias": torch.randn(4),
    }
    weight = [{"tensor": "w"}, {"tensor": "scales"}, {"tensor": "zeros"}, 0, -128, 127, {"dtype": "int8"}]
    steps = [
        *rounding("x", 0, 0.02, 128, 0, 255),
        *rounding("y", 1, 0.02, 128, 0, 255),
        ["w", "dequantize_per_channel.default", weight, {}],
        ["c", "conv2d.default", [{"value": "d0"}, {"value": "w"}, {"tensor": "bias"}, [1, 1], [1, 1]], {}],
        *behind,
    ]
    return Part({"inputs": ["x", "y"], "steps": steps, "outputs": [result]}, tensors)


@pytest.mark.parametrize(
    ("behind", "result", "replaces"),
    [
        ([], "c", "c"),
        ([RELU], "r", "r"),
        ([RELU, *rounding("r", 2, 0.05, 3, 0, 255)], "d2", "q2"),
        (rounding("c", 2, 0.05, 3, 0, 255), "d2", "q2"),
        ([RELU, *rounding("r", 2, 0.05, 3, 0, 127)], "d2", "r"),  # of 7 bits
        ([adding("d1")], "s", "s"),
        ([adding("c")], "s", "c"),
        ([adding("y")], "s", "c"),  # the caller's tensor must not be overwritten
    ],
)
def test_what_follows_a_convolution_becomes_part_of_it_where_nothing_else_reads_it(
    behind: list[list[object]], result: str, replaces: str
) -> None:
    torch.manual_seed(0)
    part, inputs = part_with(behind, result), (torch.randn(2, 3, 8, 8), torch.randn(2, 4, 8, 8))
    copies = [one.clone() for one in inputs]
    expected = part(*inputs)[0]
    assert list(integer_calls(part)) == [replaces]
    assert list(integer_calls(part, in_place=False)) == ["c" if replaces == "s" else replaces]  # for torch's compiler
    for in_place in (True, False):
        found = graph_module(part, kernels=True, in_place=in_place)(*inputs)[0]
        assert (found - expected).abs().max() <= (0.0501 if "q2" in str(behind) else 1e-4)
    assert all(torch.equal(one, copy) for one, copy in zip(inputs, copies, strict=True))


@pytest.mark.parametrize("scales", [torch.full((1,), 0.01), torch.full((4,), 0.01, dtype=torch.float64)])
def test_weights_that_a_kernel_would_misread_are_left_to_plain_operations(scales: torch.Tensor) -> None:
    part = part_with([], "c")
    weight = next(step for step in part.steps if step.result == "w")
    weight.arguments[1] = scales
    assert integer_calls(part) == {}
    inputs = torch.randn(2, 3, 8, 8), torch.randn(2, 4, 8, 8)
    if scales.dtype == torch.float32:
        torch.testing.assert_close(graph_module(part, kernels=True)(*inputs)[0], part(*inputs)[0])
