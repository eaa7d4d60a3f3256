"""A simulated machine that runs a network: a clock, watts, and an energy counter that moves in steps."""

from __future__ import annotations

from collections.abc import Callable
from math import floor
from unittest.mock import patch

import numpy as np
import torch

from study.costs.costs import Costs
from study.costs.measure import bench
from study.costs.measure.bench import Stopwatch
from study.costs.measure.profile import MeasureSettings, Profile
from study.networks.inference_network import RunnableNetwork

BATCH = 4
CLASSES = 3
COPY, DECISION, ENGINE = 2.0**-11, 2.0**-10, 2.0**-8
"""Seconds of a batch: copy of logits to the host, decision behind a head, eight smoothing steps."""
HOST_WATTS, IDLE_WATTS = 88.0, 20.0

Parts = list[tuple[float, float]]
"""Seconds of a batch, and watts."""
SEGMENTS: Parts = [(0.010, 60.0), (0.020, 90.0), (0.016, 120.0), (0.012, 80.0)]
"""The last one is the classifier, whose logits are copied to the host too."""
HEADS: Parts = [(0.003, 88.0), (0.002, 90.0), (0.001, 92.0)]
SECONDS = np.add([seconds for seconds, _ in SEGMENTS], [0, 0, 0, COPY]) / BATCH
JOULES = np.add([seconds * watts for seconds, watts in SEGMENTS], [0, 0, 0, COPY * HOST_WATTS]) / BATCH
"""Of an image, by segment."""
ON_HOST = (COPY + DECISION) / BATCH
HEAD_SECONDS = np.array([seconds for seconds, _ in HEADS]) / BATCH + ON_HOST


class Machine:
    """Time passes and joules flow only when something runs or sleeps; the meter shows the last update of the counter.

    A subclass or a test may replace ``spend``, the only place where time passes.
    """

    device, driver = "simulated", "1.0"

    def __init__(self, *, period: float = 0.05, noise: float = 0.0, source: str = "rapl") -> None:
        self.period, self.source = period, source
        self.noise, self.random = noise, np.random.default_rng(0)
        self.now = self.joules = self.shown = 0.0
        self.drift = 1.0
        self.ran: list[str] = []

    def spend(self, name: str, seconds: float, watts: float) -> None:
        self.ran.append(name)
        seconds *= 1 + self.noise * self.random.uniform(-1, 1)
        watts *= self.drift * (1 + self.noise * self.random.uniform(-1, 1))
        update = floor((self.now + seconds) / self.period) * self.period
        if update > self.now:
            self.shown = self.joules + (update - self.now) * watts
        self.now += seconds
        self.joules += seconds * watts

    def sleep(self, seconds: float) -> None:
        self.spend("sleep", seconds, IDLE_WATTS)

    def clock(self) -> float:
        return self.now

    def read(self) -> float:
        return self.shown

    def describe(self) -> dict[str, object]:
        return {"device": self.device, "power_limit_watts": 250.0}

    def decide(self, policy, logits: np.ndarray, thresholds, **at_exit) -> None:
        """In the place of `decide_at_exit`."""
        assert logits.shape == (BATCH, CLASSES)
        self.spend("decision", DECISION, HOST_WATTS)

    def smooth(self, logits: np.ndarray, thresholds, exit: int, max_jump: int) -> None:
        """In the place of `jump_ratios`."""
        assert logits.shape == (BATCH, CLASSES)
        self.spend("engine", ENGINE, HOST_WATTS)


class DeviceLogits:
    """Logits that are not on the host yet."""

    def __init__(self, copied: Callable[[], object]) -> None:
        self.copied = copied

    def float(self) -> DeviceLogits:
        return self

    def cpu(self) -> torch.Tensor:
        self.copied()
        return torch.zeros(BATCH, CLASSES)


def network_on(machine: Machine, *, segments: Parts = SEGMENTS, heads: Parts = HEADS) -> RunnableNetwork:
    """Parts that spend the machine's time; the last segment is the classifier."""

    def part(name: str, seconds: float, watts: float, output: Callable):
        def run(given):
            machine.spend(name, seconds, watts)
            return output(given)

        return run

    def logits(given: object) -> DeviceLogits:
        return DeviceLogits(lambda: machine.spend("copy", COPY, HOST_WATTS))

    names = [f"segment {number}" for number in range(1, len(segments))]
    return RunnableNetwork(
        segments=tuple(part(name, *cost, lambda state: state) for name, cost in zip(names, segments, strict=False)),
        exit_heads=tuple(part(f"head {number}", *cost, logits) for number, cost in enumerate(heads, 1)),
        classifier=part("classifier", *segments[-1], logits),
        classes=CLASSES,
        input_shape=(1, 2, 2),
        device=torch.device("cpu"),
        precision="int8",
        int8_execution="x86_kernels",
    )


def counted(exits: int = 3, **fields) -> Costs:
    return Costs(segment_flops=np.arange(exits + 1.0), head_flops=np.arange(exits) + 0.5, **fields)


def measured(
    machine: Machine,
    *,
    network: RunnableNetwork | None = None,
    metered: bool = True,
    counts: Costs | None = None,
    meter=None,
    stopwatch=None,
    **settings,
) -> Profile:
    """Measure a network on a machine; changes of settings by name."""
    with patch.object(bench, "decide_at_exit", machine.decide), patch.object(bench, "jump_ratios", machine.smooth):
        return bench.measure_profile(
            network or network_on(machine),
            counted=counts or counted(),
            batch_size=BATCH,
            meter=(meter or machine) if metered else None,
            settings=MeasureSettings(**settings),
            stopwatch=stopwatch or Stopwatch(clock=machine.clock, sleep=machine.sleep),
        )
