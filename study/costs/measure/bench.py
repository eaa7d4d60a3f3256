"""Measuring a cost profile: the seconds and joules of every part of a network, on the device at hand.

Measurements take turns (A B C A B C, never A A B B C C). A device that warms up or slows down during a measurement then
shows in the spread of the repeats; it does not make the part that is measured last look expensive.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property, partial
from itertools import pairwise
from math import ceil
from typing import Literal

import numpy as np
import torch

from study.arrays import Floats
from study.costs.costs import Costs
from study.costs.measure.meters import Meter, Run, device_name, take_window
from study.costs.measure.profile import EnergyWindow, MeasureSettings, Profile, Spread, relative_error, with_energies
from study.errors import UserError
from study.networks.inference_network import RunnableNetwork
from study.networks.registry import State
from study.policies.criteria import Agreement
from study.policies.engine import jump_ratios
from study.policies.live import decide_at_exit, logits_on_host
from study.policies.policies import Hierarchical
from study.storage.versions import versions

ENGINE_STEPS = 8
"""Smoothing steps that are timed together: the longest jump of the paper."""


class Stopwatch:
    """Measures time on a CPU, which has done its work when a call returns.

    Args:
        clock: seconds, of a clock that only moves forward.
        sleep: waits for some seconds; the device is idle meanwhile.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self.clock, self.sleep = clock, sleep

    def synchronise(self) -> None:
        """Wait until the device has done all work that it was given; a CPU has done it already."""

    def laps(self, run: Callable[[Run], object]) -> list[float]:
        """Seconds between each mark and the next mark, where ``run(mark)`` calls ``mark()`` several times."""
        times: list[float] = []
        run(lambda: times.append(self.clock()))
        return [after - before for before, after in pairwise(times)]


class CudaStopwatch(Stopwatch):
    """Measures time on a CUDA device, which works through a queue while the host fills the queue.

    A wait at each mark would empty the queue. The device records the marks itself instead, when it reaches them.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def synchronise(self) -> None:
        """Wait until the queue is empty."""
        torch.cuda.synchronize(self.device)

    def laps(self, run: Callable[[Run], object]) -> list[float]:
        """Seconds between the marks, on the device's clock. A mark in an empty queue is recorded at once."""
        stream = torch.cuda.current_stream(self.device)
        events: list[torch.cuda.Event] = []

        def mark() -> None:
            events.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
            events[-1].record(stream)

        self.synchronise()
        run(mark)
        self.synchronise()
        return [before.elapsed_time(after) / 1e3 for before, after in pairwise(events)]


def measure_profile(
    network: RunnableNetwork,
    *,
    counted: Costs,
    batch_size: int,
    meter: Meter | None,
    settings: MeasureSettings | None = None,
    stopwatch: Stopwatch | None = None,
) -> Profile:
    """Measure a network part by part, on its device, with random images.

    *Seconds of segments and classifier* are timed inside whole passes. A part that runs alone in a loop finds its
    weights and its input in the cache, which it does not in use: the sum of the parts would be below the time of the
    network. The classifier's seconds end when its logits are on the host and its answers are known: the classic network
    waits for the device once, at its end. Passes that are timed part by part take turns with passes that are timed as a
    whole. The latter give the end-to-end time, against which the sum of the parts is checked.

    *Seconds of a head* are those of the head, of the copy of its logits to the host, and of the decision on the host,
    one after the other: a policy cannot queue the next segment before it knows the decision. Each head runs behind its
    segment, in passes of their own, and starts when the device has done the segment. The segments' times in these
    passes are not kept. The decision is that of the hierarchical policy; the smoothing steps of the prediction engine
    are timed separately.

    A window gives the mean of the middle half of its passes, ordered by time: an interrupted pass does not count, and
    the parts still add up. Of the windows of the repeats, the median counts.

    *Joules* are gross. Windows are measured for the whole network and for a few prefixes (segments 1..l); between the
    ends of two prefixes, joules are apportioned by measured seconds. A head's joules are its seconds times the power of
    the whole network. A GPU is charged idle power while it waits for the host: during the copy, the decision and the
    engine's steps. (The joules of the host are not in a GPU's meter.)

    Args:
        network: stays where it is.
        counted: operations of the parts. Modelled energies in it are kept where there is no meter.
        batch_size: images in a batch.
        meter: of the network's device, or None.
        settings: how long and how often; the default is meant for results that are published.
        stopwatch: of the network's device; None: the device's own.

    Raises:
        UserError: ``counted`` is of another network, int8 is only simulated, a window is too short for the meter, or
            the meter's counter did not move.
    """
    if network.int8_execution == "simulated":
        raise UserError(f"int8 is only simulated on this {network.device.type}: its time says nothing about int8")
    if counted.exit_count != network.exit_count:
        raise UserError(f"costs of {counted.exit_count} exits were given for a network with {network.exit_count}")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, but must be at least 1")
    settings = settings or MeasureSettings()
    windows: list[EnergyWindow] = []
    facts = None
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(settings.seed)
        images = torch.randn(batch_size, *network.input_shape, generator=generator).to(network.device)
        bench = _Bench(
            network.apart or network,  # segments and heads of a cascade are timed apart, as those of other networks
            images,
            settings,
            stopwatch or (CudaStopwatch(network.device) if network.device.type == "cuda" else Stopwatch()),
        )
        segments, whole, heads, heads_on_host, engine_step = bench.seconds_per_image()
        segment_seconds = np.median(segments, axis=0)
        if meter is not None:
            windows = bench.energy_windows(meter, segment_seconds)
            facts = meter.describe()
    end_to_end = Spread.of(whole[:, 0].tolist())
    profile = Profile(
        costs=replace(
            counted,
            segment_seconds=segment_seconds,
            head_seconds=np.median(heads, axis=0),
            engine_step_seconds=float(np.median(engine_step)),
            seconds_source="measured",
            device=device_name(network.device),
            batch_size=batch_size,
        ),
        precision=network.precision,
        int8_execution=network.int8_execution,
        compiled=network.compiled,
        threads=torch.get_num_threads(),
        segment_seconds=_spreads(segments),
        head_seconds=_spreads(heads),
        head_host_seconds=_spreads(heads_on_host),
        engine_step_seconds=Spread.of(engine_step[:, 0].tolist()),
        end_to_end_seconds=end_to_end,
        relative_error_seconds=relative_error(segment_seconds, end_to_end),
        meter=facts,
        windows=tuple(windows),
        settings=settings,
        versions=versions(),
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
    )
    return profile if meter is None else with_energies(profile, meter.source)


@dataclass(frozen=True, eq=False)
class _Bench:
    """Windows of time and energy of one network on one device."""

    network: RunnableNetwork
    images: torch.Tensor
    settings: MeasureSettings
    stopwatch: Stopwatch

    @cached_property
    def thresholds(self) -> Floats:
        """``[E]``; their values cost no time."""
        return np.ones(self.network.exit_count)

    def prefix(self, parts: int, mark: Run = lambda: None) -> None:
        """Run segments 1..parts, or for E + 1 parts the network without exits up to its answers.

        ``mark`` is called before, between and after the parts.
        """
        state: State = (self.images,)
        mark()
        for segment in self.network.segments[:parts]:
            state = segment(state)
            mark()
        if parts > self.network.exit_count:
            logits_on_host(self.network.classifier(state)).argmax(axis=1)
            mark()

    def with_heads(self, mark: Run) -> None:
        """Run each segment and its head; ``mark`` is called before the head, after it, and after the decision."""
        state: State = (self.images,)
        policy, thresholds, samples = Hierarchical(beta=1.0), self.thresholds, np.arange(len(self.images))
        agreement = Agreement(len(samples))
        for exit, (segment, head) in enumerate(zip(self.network.segments, self.network.exit_heads, strict=True), 1):
            state = segment(state)
            self.stopwatch.synchronise()
            mark()
            logits = head(state[0])
            mark()
            on_host = logits_on_host(logits)
            decide_at_exit(policy, on_host, thresholds, exit=exit, samples=samples, agreement=agreement)
            mark()

    def seconds_of(self, run: Callable[[], object]) -> list[float]:
        """Seconds until a call has returned and the device has done its work."""
        self.stopwatch.synchronise()
        start = self.stopwatch.clock()
        run()
        self.stopwatch.synchronise()
        return [self.stopwatch.clock() - start]

    def seconds_of_heads(self) -> Floats:
        """``[2, E]``: of the heads, and of the copies and decisions."""
        laps = self.stopwatch.laps(self.with_heads)
        return np.array([laps[::3], laps[1::3]])

    def window(self, *runs: Callable[[], Sequence[float] | Floats]) -> list[Floats]:
        """For each run, which gives ``[..., parts]``: the mean of the middle half of its passes. The runs take turns.

        A window lasts ``timing_window_seconds`` for each part.
        """
        clock = self.stopwatch.clock
        start, turns = clock(), [[np.array(run()) for run in runs]]
        parts = sum(times.shape[-1] for times in turns[0])
        while clock() - start < parts * self.settings.timing_window_seconds:
            turns.append([np.array(run()) for run in runs])
        return [_middle_half(np.array(passes)) / len(self.images) for passes in zip(*turns, strict=True)]

    def one_repeat(self) -> tuple[Floats, ...]:
        """One window of each kind: one row of each array of :meth:`seconds_per_image`."""
        whole = partial(self.prefix, self.network.exit_count + 1)
        segments, end_to_end = self.window(lambda: self.stopwatch.laps(whole), lambda: self.seconds_of(whole))
        ((heads, on_host),) = self.window(self.seconds_of_heads)
        (engine,) = self.window(lambda: self.seconds_of(self.smooth))
        return segments, end_to_end, heads + on_host, on_host, engine / ENGINE_STEPS

    def smooth(self) -> None:
        """Run ``ENGINE_STEPS`` smoothing steps for a batch of logits."""
        logits = np.ones((len(self.images), self.network.classes), dtype=np.float32)
        jump_ratios(logits, self.thresholds, 1, ENGINE_STEPS)

    def seconds_per_image(self) -> tuple[Floats, ...]:
        """Warm up, then measure R repeats.

        Returns:
            Seconds per image of the segments ``[R, E+1]`` (the classifier last), of the whole network ``[R, 1]``, of
            the heads with copy to the host and decision ``[R, E]``, of copy and decision alone ``[R, E]``, and of one
            engine step ``[R, 1]``.
        """
        start = self.stopwatch.clock()
        while self.stopwatch.clock() - start < self.settings.warm_up_seconds:
            self.prefix(self.network.exit_count + 1)
            self.seconds_of_heads()
            self.smooth()
        repeats = [self.one_repeat() for _ in range(self.settings.repeats)]
        return tuple(np.stack(column) for column in zip(*repeats, strict=True))

    def energy_windows(self, meter: Meter, segment_seconds: Floats) -> list[EnergyWindow]:
        """In each repeat: idle, the prefixes from the shortest to the whole network, and the whole network again."""
        settings = self.settings
        nap = settings.energy_window_seconds / 10
        ends = _prefix_ends(segment_seconds, settings.energy_prefixes)
        batches = (segment_seconds.cumsum() * len(self.images)).tolist()
        last = len(batches)
        # In an idle window, weights and images are in memory as they are when the network runs.
        plan: list[tuple[Literal["idle", "prefix", "end_to_end"], int, Run, float]]
        plan = [("idle", 0, lambda: self.stopwatch.sleep(nap), nap)]
        plan += [("prefix", end, partial(self.prefix, end), batches[end - 1]) for end in ends]
        plan += [("end_to_end", last, partial(self.prefix, last), batches[-1])]
        windows = []
        for repeat in range(1, settings.repeats + 1):
            self.stopwatch.sleep(settings.settle_seconds)
            for what, parts, run, call_seconds in plan:
                seconds, joules, calls = take_window(
                    meter,
                    run,
                    what=f"{what} of {parts} parts" if parts else what,
                    at_least=settings.energy_window_seconds,
                    call_seconds=call_seconds,
                    least_calls=ceil(settings.energy_window_images / len(self.images)) if parts else 1,
                    synchronise=self.stopwatch.synchronise,
                    clock=self.stopwatch.clock,
                )
                images = calls * len(self.images) if parts else 0
                windows.append(
                    EnergyWindow(what=what, parts=parts, repeat=repeat, seconds=seconds, joules=joules, images=images)
                )
        return windows


def check_same_device(profile: Profile, device: torch.device) -> None:
    """Refuse by a UserError a profile that was measured on another device."""
    here = device_name(device)
    if profile.costs.device != here:
        raise UserError(
            f"the cost profile was measured on {profile.costs.device}, this is {here}: measure it here, or "
            "ask for it all the same (--other-device; in a study resources.profiles_of_other_device)"
        )


def _spreads(repeats: Floats) -> tuple[Spread, ...]:
    """The spread of each column of ``[R, parts]``."""
    return tuple(Spread.of(column.tolist()) for column in repeats.T)


def _middle_half(passes: Floats) -> Floats:
    """The mean over the first axis, without the quickest and the slowest quarter of the passes."""
    quarter = len(passes) // 4
    order = passes.reshape(len(passes), -1).sum(axis=1).argsort()
    return np.array(passes[order][quarter : len(passes) - quarter].mean(axis=0))


def _prefix_ends(segment_seconds: Floats, count: int) -> list[int]:
    """Ends of the measured prefixes, rising: at most ``count`` parts from 1 to E, and E + 1.

    The ends are spread evenly over the time. Energy between two ends is a difference of two measurements, whose noise
    would hide the energy of a short stretch: no stretch is shorter than half of an even share.
    """
    elapsed = segment_seconds.cumsum()
    share = elapsed[-1] / (count + 1)
    ends: list[int] = []
    for part, seconds in enumerate(elapsed[:-1], start=1):
        before = elapsed[ends[-1] - 1] if ends else 0.0
        if seconds - before >= share and elapsed[-1] - seconds >= share / 2:
            ends.append(part)
    return [*ends, len(elapsed)]
