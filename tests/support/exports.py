"""Small exported models without a study: untrained networks under any policy; and which point of a study to export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from results.parts import read_table
from study.arrays import Floats
from study.costs.costs import Costs
from study.deploy.early_exit import EarlyExit
from study.deploy.folder import Export, parsed
from study.deploy.rule import Rule
from study.export.export import flops_of
from study.export.parts import describe_parts
from study.export.rule import rule_of
from study.networks.inference_network import RunnableNetwork
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.quantization import prepare
from study.networks.settings import HeadSettings, NetworkSettings
from study.policies.base import Policy
from study.policies.criteria import Criterion, confidence
from study.policies.policies import HeadThresholds, Placed
from study.traces.collect import collect_logits

CLASSES = 5


def small_network(backbone: str, kind: str, *, channels: int = 1, seed: int = 7) -> MultiExitNetwork:
    """An untrained network of width 1/8 for images of 32 pixels, whose statistics are those of some noise."""
    torch.manual_seed(seed)
    head = HeadSettings(kind=kind, conv_channels=8, conv_layers=2, codewords=8)
    settings = NetworkSettings(backbone=backbone, width=0.125, head=head)
    network = build_network(settings, classes=CLASSES, image_size=32, channels=channels)
    network.train()
    with torch.no_grad():
        network(torch.randn(32, channels, 32, 32))  # batch norms with other statistics than those of the start
    return network.eval()


def export_of(
    runnable: RunnableNetwork,
    policy: Policy,
    thresholds: Floats,
    *,
    class_names: tuple[str, ...] = tuple("abcde"),
    costs: Costs | None = None,
) -> Export:
    """What a folder of this network under this policy holds; each part costs 1 where no costs are given."""
    rule = rule_of(policy, thresholds)
    described = describe_parts(runnable, Rule.from_json(rule), lambda what: None)
    exits = runnable.exit_count
    channels, size, _ = runnable.input_shape
    facts = {
        "class_names": list(class_names),
        "preprocessing": {
            "image_size": size,
            "channels": channels,
            "mean": [0.25] * channels,
            "std": [0.5] * channels,
            "enlarge": "bilinear",
            "pad_from": None,
        },
        "precision": runnable.precision,
        "int8_execution": described.execution,
        "rule": rule,
        "parts": described.ends,
        "costs": {
            "flops": flops_of(
                costs or Costs(segment_flops=np.ones(exits + 1), head_flops=np.ones(exits), engine_step_flops=1.0)
            )
        },
    }
    graphs = {"parts": described.parts, "heads": {str(exit): one for exit, one in described.heads.items()}}
    return parsed(facts, graphs, described.tensors)


def grey_noise(count: int) -> Tensor:
    """Images ``[count, 1, 32, 32]`` of many contrasts."""
    random = torch.Generator().manual_seed(1)
    contrast = torch.linspace(5, 60, count)[torch.randperm(count, generator=random)]
    noise = torch.randn(count, 1, 32, 32, generator=random)
    return (128 + noise * contrast.reshape(-1, 1, 1, 1)).clamp(0, 255).to(torch.uint8)


def model_of_many_stops(criterion: Criterion) -> EarlyExit:
    """A model with which :func:`grey_noise` stops at each of the exits 1, 3 and 4, and goes on."""
    network, exits = small_network("vgg11", "linear"), [1, 3, 4]
    images = (grey_noise(50) / 255 - 0.25) / 0.5
    logits = collect_logits(network, images, lambda batch: batch)
    with torch.no_grad():  # untrained heads give all images one class
        for exit in exits:
            layers = [one for one in network.heads.exits[exit - 1].modules() if isinstance(one, torch.nn.Linear)]
            layers[-1].bias -= torch.from_numpy(logits[:, exit - 1].mean(axis=0))
    if criterion == "patience":
        policy: Policy = Placed(2, exits, criterion)
    else:
        scores = confidence(collect_logits(network, images, lambda batch: batch), criterion)
        bounds = np.full(network.exit_count, np.inf)
        bounds[np.array(exits) - 1] = np.median(scores[:, np.array(exits) - 1], axis=0)
        policy = HeadThresholds(tuple(bounds.tolist()), exits, criterion)
    export = export_of(prepare(network, "fp32"), policy, np.ones(network.exit_count))
    return EarlyExit(export, torch.device("cpu"), compile=False, compact_below=1.0)


def point_of_most_exits(folder: Path, precision: str | None = None) -> str:
    """The number of the point of the front, at a precision, at which the test images stop at most exits."""
    exits = read_table(folder / "tables", "exits").dropna(subset="point")
    if precision is not None:
        exits = exits[exits["precision"] == precision]
    stopped = exits[(exits["split"] == "test") & (exits["share_stopped"] > 0)].groupby("point").size()
    return str(int(stopped.idxmax()))
