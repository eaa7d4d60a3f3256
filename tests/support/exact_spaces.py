"""Networks whose costs are exact in binary, for fronts that are compared without a tolerance."""

from dataclasses import replace

import numpy as np

from study import Costs
from study.checkpoints.description import WeightsId
from study.costs.flops import NetworkWork, Work
from study.search.traced_network import TracedNetwork
from study.traces.trace import SplitLogits

SAMPLES, CLASSES = 16, 4
"""With a power of two, and costs in whole 64ths, every mean is exact: fronts are compared without a tolerance."""


def split(exits: int, seed: int, count: int = SAMPLES) -> SplitLogits:
    """Logits in whole quarters: ties are frequent."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    logits = rng.normal(size=(count, exits + 1, CLASSES)) + 0.3
    logits[np.arange(count), :, labels] += np.linspace(0.5, 2.5, exits + 1)
    return SplitLogits((np.round(logits * 4) / 4).astype(np.float32), labels)


def costs(exits: int, *, speed: float = 1.0, watts: float = 2.0) -> Costs:
    """Segments that cost ever more FLOPs, but ever less energy and time."""
    segments, heads = np.arange(1.0, exits + 2), np.full(exits, 0.25)
    seconds, head_seconds = segments[::-1] / speed, heads / speed
    return Costs(
        segment_flops=segments,
        head_flops=heads,
        engine_step_flops=1 / 64,
        segment_bitops=segments * 8,
        head_bitops=heads * 4,
        segment_seconds=seconds,
        head_seconds=head_seconds,
        engine_step_seconds=1 / 64,
        segment_energy=seconds * watts,
        head_energy=head_seconds * watts,
        engine_step_energy=watts / 64,
        energy_source="modelled:test",
        seconds_source="modelled:test",
    )


def traced(name: str, exits: int, seed: int, precision: str = "fp32", **changes) -> TracedNetwork:
    speed = 1.0 if precision == "fp32" else 2.0
    return TracedNetwork(
        WeightsId(name, "w"),
        costs(exits, speed=speed),
        split(exits, seed),
        split(exits, seed + 1),
        precision,
        **changes,
    )


ALL_KINDS = "policy: [predictive, hierarchical, placed, static, classic], placements: [[1], [2, 3], [1, 2]]"


def with_work(one: TracedNetwork) -> TracedNetwork:
    """Heads that weigh more than segments, and ever more of them."""

    def part(parameters: int, maps: int) -> Work:
        sizes = {f"of {maps}": float(parameters)}
        return Work(
            flops=1.0,
            weight_elements=parameters,
            activation_elements=maps,
            parameters=parameters,
            parameter_sizes=sizes,
            peak_activation_elements=maps,
        )

    exits = one.exit_count
    segments = tuple(part(100, 50 - place) for place in range(exits + 1))
    heads = tuple(part(200 * (place + 1), 10 + place) for place in range(exits))
    return replace(one, work=NetworkWork(segments, heads, part(0, 0)))
