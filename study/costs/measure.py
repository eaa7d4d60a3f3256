"""Measured cost profiles: the seconds and joules of every part of a network, on the device at hand.

Everything is measured in rounds (A B C A B C, never A A B B): a device that warms up or slows down in the course of a
measurement then shows in the spread, instead of making the last part look dear.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from functools import partial
from itertools import pairwise
from math import ceil
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from study.costs.meters import Meter, Run, device_name, take_window
from study.costs.profile import Costs
from study.errors import UserError
from study.policies import Floats, jump_ratios
from study.precisions import PRECISIONS, Precision
from study.versions import versions

if TYPE_CHECKING:  # the networks import torchvision, which measuring does not need
    from study.networks.registry import State
    from study.networks.runnable import Int8Execution, RunnableNetwork

PROFILE_FORMAT = 1
ENGINE_STEPS = 8
"""Smoothing steps timed at once: the longest jump of the paper."""


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """How long and how often to measure.

    Raises:
        UserError: a number is not positive (``energy_prefixes`` and ``settle_seconds`` may be 0).
    """

    repeats: int = 3
    warm_up_seconds: float = 1.0
    timing_window_seconds: float = 0.02
    """A part is repeated until it fills this."""
    energy_window_seconds: float = 3.0
    energy_window_images: int = 1000
    """A window of energy is at least this long and has at least so many images."""
    energy_prefixes: int = 5
    """Prefixes (segments 1..l) whose energy is measured besides the whole network's, at most."""
    settle_seconds: float = 1.0
    """Between work and the measurement of idle power, in which clocks and counters come to rest."""
    seed: int = 0
    """Of the random images."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("energy_prefixes", "settle_seconds", "seed") else 1e-9
            if not least <= value < float("inf"):
                raise UserError(f"measuring: {field.name} is {value}, which is too little or not finite")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Of the repeats of one measurement."""

    minimum: float
    median: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(minimum=float(min(values)), median=float(median(values)), maximum=float(max(values)))


@dataclass(frozen=True, kw_only=True)
class EnergyWindow:
    """What the meter said between two readings, nothing subtracted."""

    what: Literal["idle", "prefix", "end_to_end"]
    parts: int
    """Segments that ran, E + 1 with the classifier, 0 when idle."""
    repeat: int
    """From 1."""
    seconds: float
    joules: float
    images: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile:
    """Costs measured on one device, with what a reader needs to judge them. Seconds and joules are per image."""

    costs: Costs
    """Medians over the repeats; the joules are gross, idle power included."""
    precision: Precision
    int8_execution: Int8Execution | None
    compiled: bool
    threads: int
    """Of torch on the CPU."""
    segment_seconds: tuple[Spread, ...]
    """E + 1 entries, the classifier last."""
    head_seconds: tuple[Spread, ...]
    engine_step_seconds: Spread
    end_to_end_seconds: Spread
    """Of all segments and the classifier in one go, without heads."""
    relative_error_seconds: float
    """(Sum of the segments - end to end) / end to end."""
    meter: Mapping[str, object] | None = None
    """What the meter tells of the device right after work: driver, clocks, power limit."""
    idle_watts: Spread | None = None
    end_to_end_joules: Spread | None = None
    """Gross."""
    end_to_end_joules_above_idle: Spread | None = None
    segment_energy_above_idle: tuple[float, ...] | None = None
    """E + 1 entries: as ``costs.segment_energy``, less idle power times the seconds."""
    head_energy_above_idle: tuple[float, ...] | None = None
    relative_error_energy: float | None = None
    """As of the seconds. The segments' joules add up to the longest prefix's, so this one tells drift and noise."""
    windows: tuple[EnergyWindow, ...] = ()
    """As they were measured, in order."""
    settings: MeasureSettings
    versions: Mapping[str, str]
    date: str
    """ISO 8601, with the time zone."""

    def to_json(self) -> str:
        """All fields as JSON text."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "costs"}
        plain = json.loads(json.dumps(values, default=asdict, allow_nan=False))
        return json.dumps({"format": PROFILE_FORMAT, "costs": json.loads(self.costs.to_json()), **plain}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Profile:
        """The inverse of :meth:`to_json`.

        Raises:
            UserError: the text is no measured profile, or one of another format.
        """
        try:
            values: dict[str, Any] = json.loads(text, parse_constant=_refuse_constant)
            if not isinstance(values, dict):
                raise ValueError("it is no JSON object")
            format = values.pop("format", None)
            if format != PROFILE_FORMAT:
                raise ValueError(f"its format is {format!r}, this program reads {PROFILE_FORMAT}")
            if values["precision"] not in PRECISIONS:
                raise ValueError(f"its precision is {values['precision']!r}")
            values["costs"] = Costs.from_json(json.dumps(values["costs"]))
            values["settings"] = MeasureSettings(**values["settings"])
            values["windows"] = tuple(EnergyWindow(**window) for window in values["windows"])
            for name in _WITH_SPREADS:
                values[name] = _revived(values[name])
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"this is no measured cost profile ({error})") from None


_WITH_SPREADS = (
    *("segment_seconds", "head_seconds", "engine_step_seconds", "end_to_end_seconds", "idle_watts"),
    *("end_to_end_joules", "end_to_end_joules_above_idle", "segment_energy_above_idle", "head_energy_above_idle"),
)


def _revived(value: Any) -> Any:
    """Lists as tuples and objects as spreads."""
    if isinstance(value, list):
        return tuple(_revived(entry) for entry in value)
    return Spread(**value) if isinstance(value, dict) else value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}")


def check_same_device(profile: Profile, device: torch.device) -> None:
    """Refuse a profile of another device than the one that runs.

    Raises:
        UserError: it was measured elsewhere.
    """
    here = device_name(device)
    if profile.costs.device != here:
        raise UserError(
            f"the cost profile was measured on {profile.costs.device}, this is {here}: measure it here, or name the "
            "profile to use it all the same"
        )


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

    *Seconds*: each segment and head runs on its own real input, alone and repeatedly, for at least
    ``timing_window_seconds``; the median of the repeats counts. The engine's smoothing is numpy on the host, as in
    :func:`study.inference.run_policy`; copying a head's logits to the host is not in any part.

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
        UserError: ``counted`` is of another network, a window is too short for the meter, or the meter moved by
            nothing.
    """
    if counted.exit_count != network.exit_count:
        raise UserError(f"costs of {counted.exit_count} exits were given for a network with {network.exit_count}")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, but must be at least 1")
    settings = settings or MeasureSettings()
    bench = _Bench(network.device, batch_size, settings, clock, sleep)
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(settings.seed)
        images = torch.randn(batch_size, *network.input_shape, generator=generator).to(network.device)
        segments, heads, engine = _alone(network, images)
        last = network.exit_count + 1
        whole = partial(_run_prefix, network, images, last)
        bench.time(whole, 1, at_least=settings.warm_up_seconds)
        seconds = bench.seconds_per_image([*segments, *heads, engine, whole])
        medians = np.median(seconds, axis=0)
        segment_seconds, head_seconds = medians[:last], medians[last:-2]
        windows: list[EnergyWindow] = []
        facts = None
        if meter is not None:
            ends = _prefix_ends(segment_seconds, settings.energy_prefixes)
            prefixes = {end: partial(_run_prefix, network, images, end) for end in ends}
            windows = bench.energy_windows(meter, prefixes, segment_seconds)
            facts = meter.describe()
    spreads = [Spread.of(column.tolist()) for column in seconds.T]
    profile = Profile(
        costs=replace(
            counted,
            segment_seconds=segment_seconds,
            head_seconds=head_seconds,
            engine_step_seconds=float(medians[-2]) / ENGINE_STEPS,
            seconds_source="measured",
            device=device_name(network.device),
            batch_size=batch_size,
        ),
        precision=network.precision,
        int8_execution=network.int8_execution,
        compiled=network.compiled,
        threads=torch.get_num_threads(),
        segment_seconds=tuple(spreads[:last]),
        head_seconds=tuple(spreads[last:-2]),
        engine_step_seconds=Spread.of((seconds[:, -2] / ENGINE_STEPS).tolist()),
        end_to_end_seconds=spreads[-1],
        relative_error_seconds=_relative_error(segment_seconds, spreads[-1]),
        meter=facts,
        windows=tuple(windows),
        settings=settings,
        versions=versions(),
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
    )
    return profile if meter is None else _with_energies(profile, meter)


def _alone(network: RunnableNetwork, images: torch.Tensor) -> tuple[list[Run], list[Run], Run]:
    """Segments and classifier, heads, and the engine, each with its own real input; each ran once when this returns."""
    segments: list[Run] = []
    heads: list[Run] = []
    state: State = (images,)
    for segment, head in zip(network.segments, network.exit_heads, strict=True):
        segments.append(partial(segment, state))
        state = segment(state)
        heads.append(partial(head, state[0]))
        head(state[0])
    segments.append(partial(network.classifier, state))
    logits = network.classifier(state).float().cpu().numpy()
    return segments, heads, partial(jump_ratios, logits, np.ones(network.exit_count), 1, ENGINE_STEPS)


def _run_prefix(network: RunnableNetwork, images: torch.Tensor, parts: int) -> object:
    state: State = (images,)
    for segment in network.segments[:parts]:
        state = segment(state)
    return network.classifier(state) if parts > network.exit_count else state


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

    def time(self, run: Run, calls: int, *, at_least: float) -> tuple[float, int]:
        """Seconds of a window, and the calls in it: the given number, or more where they do not fill the window."""
        while True:
            self.synchronise()
            start = self.clock()
            for _ in range(calls):
                run()
            self.synchronise()
            elapsed = self.clock() - start
            if elapsed >= at_least:
                return elapsed, calls
            # Tenfold at most: the few calls of a first guess may have been unusually quick.
            calls = min(10 * calls, ceil(1.2 * calls * at_least / elapsed)) if elapsed > 0 else 10 * calls

    def seconds_per_image(self, runs: Sequence[Run]) -> Floats:
        """``[repeats, len(runs)]``; a first round, not counted, finds out how many calls fill a window."""
        calls = [1] * len(runs)
        rounds = np.empty((self.settings.repeats + 1, len(runs)))
        for row in rounds:
            for index, run in enumerate(runs):
                seconds, calls[index] = self.time(run, calls[index], at_least=self.settings.timing_window_seconds)
                row[index] = seconds / (calls[index] * self.batch_size)
        return rounds[1:]

    def energy_windows(self, meter: Meter, prefixes: Mapping[int, Run], segment_seconds: Floats) -> list[EnergyWindow]:
        """In each round: idle, the prefixes from short to whole, and the whole once more, for comparison."""
        settings = self.settings
        nap = settings.energy_window_seconds / 10
        batches = (segment_seconds.cumsum() * self.batch_size).tolist()
        whole = len(batches)
        # Idle: weights, images and feature maps are in memory, as they are when the network runs.
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
                window = EnergyWindow(
                    what=what, parts=parts, repeat=repeat, seconds=seconds, joules=joules, images=images
                )
                windows.append(window)
        return windows


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


def _with_energies(profile: Profile, meter: Meter) -> Profile:
    """The profile with the joules of its windows."""

    def windows(what: str, parts: int) -> list[EnergyWindow]:
        return [window for window in profile.windows if (window.what, window.parts) == (what, parts)]

    def joules(what: str, parts: int, *, less_watts: float = 0.0) -> Spread:
        return Spread.of([(w.joules - less_watts * w.seconds) / w.images for w in windows(what, parts)])

    segment_seconds, head_seconds, step_seconds = profile.costs.parts("seconds")
    idle = Spread.of([window.joules / window.seconds for window in windows("idle", 0)])
    ends = sorted({window.parts for window in profile.windows if window.what == "prefix"})
    gross = [joules("prefix", end).median for end in ends]
    for shorter, longer in pairwise(range(len(ends))):
        if not gross[longer] > gross[shorter]:
            raise UserError(
                f"measuring energy: {ends[longer]} parts took no more joules than the first {ends[shorter]} of them: "
                "the noise is larger than what lies between; raise energy_window_seconds or lower energy_prefixes"
            )
    segment_energy = _shared_out(gross, ends, segment_seconds)
    above = [joules("prefix", end, less_watts=idle.median).median for end in ends]
    power = median(window.joules / window.seconds for window in windows("prefix", ends[-1]))
    step_power = power if meter.source == "rapl" else idle.median
    end_to_end = joules("end_to_end", ends[-1])
    return replace(
        profile,
        costs=replace(
            profile.costs,
            segment_energy=segment_energy,
            head_energy=power * head_seconds,
            engine_step_energy=step_power * step_seconds,
            energy_source=meter.source,
        ),
        idle_watts=idle,
        end_to_end_joules=end_to_end,
        end_to_end_joules_above_idle=joules("end_to_end", ends[-1], less_watts=idle.median),
        segment_energy_above_idle=tuple(_shared_out(above, ends, segment_seconds).tolist()),
        head_energy_above_idle=tuple(((power - idle.median) * head_seconds).tolist()),
        relative_error_energy=_relative_error(segment_energy, end_to_end),
    )


def _shared_out(prefix_joules: Sequence[float], ends: Sequence[int], seconds: Floats) -> Floats:
    """``[E+1]``: the joules between the ends of two prefixes, by seconds."""
    shared = np.empty(len(seconds))
    for first, last, joules in zip([0, *ends[:-1]], ends, np.diff(prefix_joules, prepend=0.0), strict=True):
        stretch = seconds[first:last]
        shared[first:last] = joules * stretch / stretch.sum()
    return shared


def _relative_error(segments: Floats, end_to_end: Spread) -> float:
    return float(segments.sum() / end_to_end.median - 1)
