"""A small VGG, and traced networks with two frequency levels, for tests of costs under frequency rules."""

import numpy as np

from search_spaces.spec import parse_space
from study import Costs
from study.checkpoints.description import WeightsId
from study.costs.model.dvfs import LevelCosts
from study.networks.multi_exit import MultiExitNetwork, build_network
from study.networks.settings import HeadSettings, NetworkSettings
from study.search.traced_network import Frequencies, TracedNetwork
from study.traces.trace import SplitLogits

ONE = WeightsId("one", "w")

XEON = "intel-xeon-platinum-8280"


def points(text: str):
    return parse_space(f"name: x\noperating_points: {{{text}}}", "test").operating_points


def split(seed: int) -> SplitLogits:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 60)
    logits = rng.normal(size=(60, 6, 4)) + 0.3
    logits[np.arange(60), :, labels] += np.linspace(0.5, 3, 6)
    return SplitLogits(logits.astype(np.float32), labels)


def level(factor: float, watts: float) -> Costs:
    seconds = np.arange(1.0, 7.0) / factor
    return Costs(
        segment_flops=np.arange(1.0, 7.0),
        head_flops=np.full(5, 0.125),  # sums are exact in any order
        segment_seconds=seconds,
        head_seconds=np.full(5, 0.1 / factor),
        segment_energy=seconds * watts,
        head_energy=np.full(5, 0.1 / factor * watts),
        energy_source="modelled:test",
        seconds_source="modelled:test",
    )


LEVELS = LevelCosts(
    megahertz=[500, 1000], costs=(level(0.5, 3.0), level(1.0, 10.0)), idle_watts=1.0, switch_seconds=0.01
)


def traced(**changes) -> TracedNetwork:
    plan = Frequencies(levels=LEVELS, slack=0.5, period=40.0)
    parts = {"calibration": split(1), "validation": split(2), "frequencies": plan, **changes}
    return TracedNetwork(ONE, LEVELS.costs[-1], **parts)


def small_vgg() -> MultiExitNetwork:
    settings = NetworkSettings(backbone="vgg11", width=0.125, head=HeadSettings(kind="linear"))
    return build_network(settings, classes=4, image_size=32, channels=3).eval()
