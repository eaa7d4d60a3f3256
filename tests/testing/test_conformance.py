"""Every bundled backbone, head, criterion and policy passes the suite that is shipped; what is broken does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import pytest
from torch import Tensor, nn

from search_spaces.settings import HeadKind
from study.networks import registry
from study.networks.registry import ExitPoint, FeatureClassifier, FeatureSegment, Segmented, backbone_names
from study.networks.settings import HeadSettings, NetworkSettings
from study.networks.torchvision_models import torchvision_names
from study.policies.criteria import CRITERIA
from study.policies.policies import POLICIES, Classic, Hierarchical, Placed, Predictive, Static
from study.testing import check_backbone, check_criterion, check_head, check_policy

SMALL = [
    "densenet121",
    "efficientnet_b0",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
]
"""Of at most 12 million parameters; the others have the same blocks."""
QUICK = ["mobilenet_v3_small", "shufflenet_v2_x0_5"]


@pytest.mark.parametrize("name", ["vgg11", "vgg19_bn", "resnet18", "resnet34"])
def test_small_variants(name: str) -> None:
    check_backbone(NetworkSettings(backbone=name, width=0.125, head=HeadSettings(kind="bof", codewords=8)))


@pytest.mark.parametrize("name", QUICK)
def test_quick_models_of_torchvision(name: str) -> None:
    check_backbone(f"torchvision:{name}", image_size=64)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*backbone_names(), *(f"torchvision:{name}" for name in SMALL)])
def test_int8_of_all_small_models(name: str) -> None:
    width = 1.0 if ":" in name else 0.125
    settings = NetworkSettings(backbone=name, width=width, head=HeadSettings(kind="linear"))
    check_backbone(settings, image_size=64 if ":" in name else 32, int8=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(torchvision_names()) - set(SMALL) - {"vit_h_14", "regnet_y_128gf"}))
def test_large_models_of_torchvision(name: str) -> None:
    check_backbone(f"torchvision:{name}", image_size=64)


@pytest.mark.parametrize("kind", get_args(HeadKind))
def test_heads(kind: str) -> None:
    check_head(HeadSettings(kind=kind, codewords=8, conv_channels=8))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_criteria(criterion: str) -> None:
    check_criterion(criterion)


@pytest.mark.parametrize(
    "policy",
    [
        Classic(),
        Static(2),
        Hierarchical(0.9, 2),
        Placed(0.9, (1, 3)),
        Predictive(0.9, 1),
        Predictive(1.2, 2, max_jump=2, overshoot="classifier"),
        POLICIES["head_thresholds"]((0.8, 1.0, 1.0, 1.1), (1, 3)),
    ],
    ids=lambda policy: policy.name,
)
def test_policies(policy: object) -> None:
    check_policy(policy)


class _Doubling(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (2 * self.layer(state)[0],)


def broken(way: str) -> Segmented:
    """Two layers, with a mistake."""
    first = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
    second = [nn.ReLU(inplace=way == "overwrites"), nn.Conv2d(8, 8, 3, padding=1)]
    model = nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    segments = [FeatureSegment(*first), FeatureSegment(*second)]
    if way == "overwrites":
        segments = [FeatureSegment(first[0]), FeatureSegment(first[1], *second)]
        first[1].inplace = True
    if way == "answers":
        segments[0] = _Doubling(segments[0])
    names = ("one", "one" if way == "names" else "two")
    exits = tuple(ExitPoint(name, "all", "all", grid=1) for name in names)
    return Segmented(model, tuple(segments), FeatureClassifier(*model[4:]), exits)


@pytest.mark.parametrize(
    ("way", "told"),
    [
        ("overwrites", "segment 2 overwrites"),
        ("answers", "another answer than the whole"),
        ("names", "two exits have the same name"),
    ],
)
def test_a_broken_backbone_is_told(way: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone_names()
    monkeypatch.setattr(registry, "_builders", {**registry._builders, "broken": lambda **sizes: broken(way)})
    with pytest.raises(AssertionError, match=told):
        check_backbone("broken", image_size=8)


@dataclass(frozen=True)
class Wrong(Hierarchical):
    """Says that it runs no head."""

    name = "hierarchical_of_tests"

    def heads_it_may_run(self, exit_count):
        return super().heads_it_may_run(exit_count) & False


def test_a_broken_policy_is_told() -> None:
    with pytest.raises(AssertionError, match="heads_it_may_run leaves out a head"):
        check_policy(Wrong(0.9))
