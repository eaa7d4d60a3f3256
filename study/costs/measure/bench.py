"""Measuring a cost profile: the seconds and joules of every part of a network, on the device at hand.

Everything is measured in turns (A B C A B C, never A A B B): a device that warms up or slows down in the course of a
measurement then shows in the spread, instead of making the last part look dear.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import chain, pairwise
from math import ceil
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from study.arrays import Floats
from study.costs.costs import Costs
from study.costs.measure.meters import Meter, Run, device_name, take_window
from study.costs.measure.profile import EnergyWindow, MeasureSettings, Profile, Spread, relative_error, with_energies
from study.errors import UserError
from study.policies.engine import jump_ratios
from study.storage.versions import versions

if TYPE_CHECKING:  # the networks import torchvision, which measuring does not need
    from study.networks.inference_network import RunnableNetwork
    from study.networks.registry import State


ENGINE_STEPS = 8
"""Smoothing steps timed at once: the longest jump of the paper."""


def measure_profile(
    network: RunnableNetwork,
    *,
    counted: Costs,
    batch_size: int,
    meter: Meter | None,
    settings: MeasureSettings | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> Profile:
    """Measure a network part by part, on its device, with random images.

    *Seconds*: the parts are timed inside whole passes. Alone and repeated, a part would find its weights and its input
    in the cache, which it does not in use: the sum of the parts would come out below the time of the network. Passes of
    all segments and the classifier take turns with passes that are timed as a whole: the end-to-end time, which the sum
    is checked against. In passes of their own the heads run, each right behind its segment (only the heads' times are
    kept): a pass that follows heads is slower. A window gives the mean of the middle half of its passes, ordered by
    time, so that what an interruption hit does not count and the parts still add up; of the repeats' windows the median
    counts. The engine's smoothing is numpy on the host, as in :func:`study.policies.live.run_policy`; copying a head's
    logits to the host is not in any part.

    *Joules*, gross: windows for the whole network and for a few prefixes (segments 1..l); between the ends of two
    prefixes the joules are shared out by measured seconds. A head's are its seconds times the power of the whole
    network; the engine's likewise on a CPU, and times idle power on a GPU, which waits meanwhile (the host's own joules
    are not in a GPU's meter).

    Args:
        network: what runs; it stays where it is.
        counted: operations of its parts. Modelled energies in it are kept where there is no meter.
        batch_size: images a batch.
        meter: of the network's device, or None.
        settings: how long and how often; the default is meant for results that are published.
        clock: seconds, of a clock that only moves forward.
        sleep: waits that many seconds; idle power is measured in it.

    Raises:
        UserError: ``counted`` is of another network, int8 is only simulated, a window is too short for the meter, or
            the meter moved by nothing.
    """
    if network.int8_execution == "simulated":
        raise UserError(f"int8 is only simulated on this {network.device.type}: its time says nothing about int8")
    if counted.exit_count != network.exit_count:
        raise UserError(f"costs of {counted.exit_count} exits were given for a network with {network.exit_count}")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, but must be at least 1")
    settings = settings or MeasureSettings()
    bench = _Bench(network.device, batch_size, settings, clock, sleep)
    last = network.exit_count + 1
    windows: list[EnergyWindow] = []
    facts = None
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(settings.seed)
        images = torch.randn(batch_size, *network.input_shape, generator=generator).to(network.device)
        seconds = bench.seconds_per_image(network, images)
        medians = np.median(seconds, axis=0)
        segment_seconds, head_seconds = medians[:last], medians[last + 1 : -1]
        if meter is not None:
            ends = _prefix_ends(segment_seconds, settings.energy_prefixes)
            prefixes = {end: partial(_pass, network, images, end) for end in ends}
            windows = bench.energy_windows(meter, prefixes, segment_seconds)
            facts = meter.describe()
    spreads = [Spread.of(column.tolist()) for column in seconds.T]
    profile = Profile(
        costs=replace(
            counted,
            segment_seconds=segment_seconds,
            head_seconds=head_seconds,
            engine_step_seconds=float(medians[-1]),
            seconds_source="measured",
            device=device_name(network.device),
            batch_size=batch_size,
        ),
        precision=network.precision,
        int8_execution=network.int8_execution,
        compiled=network.compiled,
        threads=torch.get_num_threads(),
        segment_seconds=tuple(spreads[:last]),
        head_seconds=tuple(spreads[last + 1 : -1]),
        engine_step_seconds=spreads[-1],
        end_to_end_seconds=spreads[last],
        relative_error_seconds=relative_error(segment_seconds, spreads[last]),
        meter=facts,
        windows=tuple(windows),
        settings=settings,
        versions=versions(),
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
    )
    return profile if meter is None else with_energies(profile, meter.source)


def _no_mark() -> None:
    """For passes in which nothing happens between the parts."""


def _pass(network: RunnableNetwork, images: torch.Tensor, parts: int, mark: Run = _no_mark) -> State:
    """Run segments 1..parts, at E + 1 the classifier too; ``mark`` is called before, between and after them."""
    state: State = (images,)
    mark()
    for segment in network.segments[:parts]:
        state = segment(state)
        mark()
    if parts > network.exit_count:
        state = (network.classifier(state),)
        mark()
    return state


def _pass_with_heads(network: RunnableNetwork, images: torch.Tensor, mark: Run) -> None:
    """Run each segment and its head; ``mark`` is called before and after each head."""
    state: State = (images,)
    for segment, head in zip(network.segments, network.exit_heads, strict=True):
        state = segment(state)
        mark()
        head(state[0])
        mark()


@dataclass(frozen=True)
class _Bench:
    """Windows of time and energy on one device."""

    device: torch.device
    batch_size: int
    settings: MeasureSettings
    clock: Callable[[], float]
    sleep: Callable[[float], object]

    def synchronise(self) -> None:
        """Wait until the device has done what it was given; a CPU has when the call returns."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def time(self, run: Run) -> float:
        """Seconds until a call is done."""
        self.synchronise()
        start = self.clock()
        run()
        self.synchronise()
        return self.clock() - start

    def laps(self, run: Callable[[Run], object]) -> list[float]:
        """Seconds between one mark and the next, where ``run(mark)`` calls ``mark()`` in its course.

        A GPU lags behind the host and waiting for it at each mark would drain its queue: it notes the marks itself.
        """
        self.synchronise()
        if self.device.type == "cuda":
            stream = torch.cuda.current_stream(self.device)
            events: list[torch.cuda.Event] = []

            def mark() -> None:
                events.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
                events[-1].record(stream)

            run(mark)
            self.synchronise()
            return [before.elapsed_time(after) / 1e3 for before, after in pairwise(events)]
        times: list[float] = []
        run(lambda: times.append(self.clock()))
        return [after - before for before, after in pairwise(times)]

    def seconds_per_image(self, network: RunnableNetwork, images: torch.Tensor) -> Floats:
        """``[repeats, 2E + 3]``: segments and classifier, all end to end, the heads, a step of the engine."""
        whole = partial(_pass, network, images, network.exit_count + 1)
        with_heads = partial(_pass_with_heads, network, images)
        logits = whole()[0].float().cpu().numpy()
        engine = partial(jump_ratios, logits, np.ones(network.exit_count), 1, ENGINE_STEPS)
        kinds: list[list[Callable[[], list[float]]]] = [
            [lambda: self.laps(whole), lambda: [self.time(whole)]],
            [lambda: self.laps(with_heads)[::2]],
            [lambda: [self.time(engine) / ENGINE_STEPS]],
        ]

        def window(runs: Sequence[Callable[[], list[float]]]) -> Floats:
            """``[parts]``, of runs that take turns."""
            start, turns = self.clock(), [[run() for run in runs]]
            parts = sum(map(len, turns[0]))
            while self.clock() - start < parts * self.settings.timing_window_seconds:
                turns.append([run() for run in runs])
            typical = [_middle_half(np.array(passes)) for passes in zip(*turns, strict=True)]
            return np.concatenate(typical) / self.batch_size

        start = self.clock()
        while self.clock() - start < self.settings.warm_up_seconds:
            for run in chain(*kinds):
                run()
        return np.stack([np.concatenate([window(runs) for runs in kinds]) for _ in range(self.settings.repeats)])

    def energy_windows(self, meter: Meter, prefixes: Mapping[int, Run], segment_seconds: Floats) -> list[EnergyWindow]:
        """In each round: idle, the prefixes from short to whole, and the whole once more, for comparison."""
        settings = self.settings
        nap = settings.energy_window_seconds / 10
        batches = (segment_seconds.cumsum() * self.batch_size).tolist()
        whole = len(batches)
        # Idle: weights and images are in memory as they are when the network runs, and a GPU keeps all it was given.
        plan: list[tuple[Literal["idle", "prefix", "end_to_end"], int, Run, float]]
        plan = [("idle", 0, lambda: self.sleep(nap), nap)]
        plan += [("prefix", parts, run, batches[parts - 1]) for parts, run in prefixes.items()]
        plan += [("end_to_end", whole, prefixes[whole], batches[-1])]
        windows = []
        for repeat in range(1, settings.repeats + 1):
            self.sleep(settings.settle_seconds)
            for what, parts, run, call_seconds in plan:
                seconds, joules, calls = take_window(
                    meter,
                    run,
                    what=f"{what} of {parts} parts" if parts else what,
                    at_least=settings.energy_window_seconds,
                    call_seconds=call_seconds,
                    least_calls=ceil(settings.energy_window_images / self.batch_size) if parts else 1,
                    synchronise=self.synchronise,
                    clock=self.clock,
                )
                images = calls * self.batch_size if parts else 0
                windows.append(
                    EnergyWindow(what=what, parts=parts, repeat=repeat, seconds=seconds, joules=joules, images=images)
                )
        return windows


def _middle_half(passes: Floats) -> Floats:
    """``[parts]``: the mean of ``[passes, parts]`` without the quickest and the slowest quarter of the passes."""
    quarter = len(passes) // 4
    return np.array(passes[passes.sum(axis=1).argsort()][quarter : len(passes) - quarter].mean(axis=0))


def _prefix_ends(segment_seconds: Floats, count: int) -> list[int]:
    """Where measured prefixes end, rising: at most ``count`` parts from 1 to E, and E + 1.

    They are spread evenly over the time. What lies between two of them is measured as a difference, and a short
    stretch would drown in the noise of both: none is shorter than half an even share.
    """
    elapsed = segment_seconds.cumsum()
    share = elapsed[-1] / (count + 1)
    ends: list[int] = []
    for part, seconds in enumerate(elapsed[:-1], start=1):
        before = elapsed[ends[-1] - 1] if ends else 0.0
        if seconds - before >= share and elapsed[-1] - seconds >= share / 2:
            ends.append(part)
    return [*ends, len(elapsed)]
