"""One network at two precisions, with frequency levels."""

import numpy as np

from study import Costs
from study.checkpoints.description import WeightsId
from study.costs.model.dvfs import LevelCosts
from study.search.traced_network import Frequencies, TracedNetwork
from study.traces.trace import SplitLogits
from support.searches import split

EXITS = 4


def costs(speed: float, watts: float) -> Costs:
    segments, heads = np.arange(1.0, EXITS + 2), np.full(EXITS, 0.25)
    return Costs(
        segment_flops=segments,
        head_flops=heads,
        segment_bitops=segments * 512,
        head_bitops=heads * 512,
        segment_seconds=segments / speed,
        head_seconds=heads / speed,
        segment_energy=segments / speed * watts,
        head_energy=heads / speed * watts,
        energy_source="modelled:test",
        seconds_source="modelled:test",
        device="test",
    )


def at(precision: str, speed: float, seed: int) -> TracedNetwork:
    levels = LevelCosts([500, 1000], (costs(speed / 2, 3.0), costs(speed, 10.0)), idle_watts=1.0, switch_seconds=0.0)
    validation = split(EXITS, seed + 2)
    execution = "simulated" if precision == "int8" else None
    return TracedNetwork(
        WeightsId("one", "w"),
        levels.costs[-1],
        split(EXITS, seed + 1),
        SplitLogits(validation.logits, validation.labels, execution),
        precision=precision,
        frequencies=Frequencies(levels=levels, slack=0.2, period=30.0),
    )


BOTH = [at("fp32", 1.0, 0), at("int8", 3.0, 20)]
