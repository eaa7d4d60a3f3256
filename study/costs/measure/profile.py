"""Measured profiles: costs that a bench has measured on one device, with the circumstances of the measurement.

A :class:`Profile` holds :class:`study.costs.costs.Costs`, the spread of each measurement over the repeats, and the
windows of the energy meter. This module computes the energies of the parts from the windows, and writes and reads
profiles as JSON. :mod:`study.run.one_network` is the command that measures profiles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from results.storage.paths import Location
from search_spaces.words import short
from study.arrays import Floats
from study.costs.costs import Costs
from study.errors import UserError
from study.networks.precisions import PRECISIONS, Int8Execution, Precision
from study.storage.strict_json import parse_json

if TYPE_CHECKING:
    from study.costs.measure.meters import MeterSource

PROFILE_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """How long and how often to measure.

    Raises:
        UserError: a number is not positive (``energy_prefixes`` and ``settle_seconds`` may be 0).
    """

    repeats: int = 3
    warm_up_seconds: float = 1.0
    timing_window_seconds: float = 0.02
    """Length of a window of time for each part that is timed in the window."""
    energy_window_seconds: float = 3.0
    energy_window_images: int = 1000
    """A window of energy lasts at least ``energy_window_seconds`` and has at least ``energy_window_images`` images."""
    energy_prefixes: int = 5
    """Largest number of prefixes (segments 1..l) whose energy is measured beside the energy of the whole network."""
    settle_seconds: float = 1.0
    """Pause between work and the measurement of idle power: clocks and counters come to rest."""
    seed: int = 0
    """Seed of the random images."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name in ("energy_prefixes", "settle_seconds", "seed") else 1e-9
            if not least <= value < float("inf"):
                raise UserError(f"measuring: {name} is {value}, which is too little or not finite")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Smallest, median and largest value of one measurement over the repeats."""

    minimum: float
    median: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(minimum=float(min(values)), median=float(median(values)), maximum=float(max(values)))


@dataclass(frozen=True, kw_only=True)
class EnergyWindow:
    """Joules between two readings of the meter; idle power is not subtracted."""

    what: Literal["idle", "prefix", "end_to_end"]
    parts: int
    """Number of segments that ran; E + 1 with the classifier; 0 when idle."""
    repeat: int
    """Number of the repeat, from 1."""
    seconds: float
    joules: float
    images: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile:
    """Costs measured on one device, with the circumstances of the measurement. Seconds and joules are per image."""

    costs: Costs
    """Medians over the repeats. The joules are gross: they include idle power."""
    precision: Precision
    int8_execution: Int8Execution | None
    compiled: bool
    threads: int
    """Threads of torch on the CPU."""
    segment_seconds: tuple[Spread, ...]
    """E + 1 entries, the classifier last. The classifier's seconds end when its answers are on the host."""
    head_seconds: tuple[Spread, ...] = field(metadata={"measures": "head, copy to host, decision"})
    """E entries: from the start of the head on an idle device to the decision on the host."""
    head_host_seconds: tuple[Spread, ...] = field(metadata={"measures": "copy to host, decision"})
    """E entries: the share of ``head_seconds`` in which a GPU waits for the host."""
    engine_step_seconds: Spread
    end_to_end_seconds: Spread
    """Of all segments and the classifier in one go, up to the answers on the host, without heads."""
    relative_error_seconds: float
    """(Sum of the segments - end to end) / end to end."""
    meter: Mapping[str, object] | None = None
    """Facts that the meter reports right after work: device, driver, clocks, power limit."""
    idle_watts: Spread | None = None
    end_to_end_joules: Spread | None = None
    """Gross."""
    end_to_end_joules_above_idle: Spread | None = None
    segment_energy_above_idle: tuple[float, ...] | None = None
    """E + 1 entries: ``costs.segment_energy`` minus idle power times the seconds."""
    head_energy_above_idle: tuple[float, ...] | None = None
    """E entries: ``costs.head_energy`` minus idle power times the seconds."""
    relative_error_energy: float | None = None
    """(Sum of the segments - end to end) / end to end. The joules of the segments add up to those of the longest
    prefix, which runs the same parts as an end-to-end window: the error shows drift and noise."""
    windows: tuple[EnergyWindow, ...] = ()
    """All windows, in the order of the measurement."""
    settings: MeasureSettings
    versions: Mapping[str, str]
    date: str
    """ISO 8601, with the time zone."""

    def to_json(self) -> str:
        """All fields as JSON text."""
        values = {"format": PROFILE_FORMAT, **asdict(self)}
        return json.dumps(values, default=np.ndarray.tolist, allow_nan=False, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Profile:
        """The inverse of :meth:`to_json`; a UserError for a text of another format or without a profile."""
        try:
            values: dict[str, Any] = parse_json(text)
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
            raise UserError(f"this is no measured cost profile ({short(error, 200)})") from None


def read_profile(path: Location) -> Profile:
    """Read a profile from a JSON file.

    Raises:
        UserError: there is no such file, or the file holds no profile.
        OSError: the file cannot be read.
    """
    if not path.is_file():  # reading a pipe could wait for ever
        raise UserError(f"{path}: {'this is no file' if path.exists() else 'no such profile'}: name a profile's .json")
    try:
        return Profile.from_json(path.read_bytes())
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


_WITH_SPREADS = (
    *("segment_seconds", "head_seconds", "head_host_seconds", "engine_step_seconds", "end_to_end_seconds"),
    "idle_watts",
    *("end_to_end_joules", "end_to_end_joules_above_idle", "segment_energy_above_idle", "head_energy_above_idle"),
)


def _revived(value: Any) -> Any:
    """Turn JSON lists into tuples and JSON objects into spreads."""
    if isinstance(value, list):
        return tuple(_revived(entry) for entry in value)
    return Spread(**value) if isinstance(value, dict) else value


def with_energies(profile: Profile, source: MeterSource) -> Profile:
    """Add the joules of each part. A prefix that took no more joules than a shorter prefix gives a UserError."""

    def windows(what: str, parts: int) -> list[EnergyWindow]:
        return [window for window in profile.windows if (window.what, window.parts) == (what, parts)]

    def joules(what: str, parts: int, *, less_watts: float = 0.0) -> Spread:
        return Spread.of([(w.joules - less_watts * w.seconds) / w.images for w in windows(what, parts)])

    segment_seconds, head_seconds, step_seconds = profile.costs.parts("seconds")
    idle = Spread.of([window.joules / window.seconds for window in windows("idle", 0)])
    ends = sorted({window.parts for window in profile.windows if window.what == "prefix"})
    gross = [joules("prefix", end).median for end in ends]
    for (shorter, less), (longer, more) in pairwise(zip(ends, gross, strict=True)):
        if not more > less:
            raise UserError(
                f"measuring energy: {longer} parts took no more joules than the first {shorter} of them: "
                "the noise is larger than what lies between; raise energy_window_seconds or lower energy_prefixes"
            )
    segment_energy = _apportioned(gross, ends, segment_seconds)
    above = [joules("prefix", end, less_watts=idle.median).median for end in ends]
    power = median(window.joules / window.seconds for window in windows("prefix", ends[-1]))
    # A GPU idles while the host works; the counters of a CPU count the host's work.
    host_power = power if source == "rapl" else idle.median
    on_host = np.array([spread.median for spread in profile.head_host_seconds])
    head_energy = power * (head_seconds - on_host) + host_power * on_host
    end_to_end = joules("end_to_end", ends[-1])
    return replace(
        profile,
        costs=replace(
            profile.costs,
            segment_energy=segment_energy,
            head_energy=head_energy,
            engine_step_energy=host_power * step_seconds,
            energy_source=source,
        ),
        idle_watts=idle,
        end_to_end_joules=end_to_end,
        end_to_end_joules_above_idle=joules("end_to_end", ends[-1], less_watts=idle.median),
        segment_energy_above_idle=tuple(_apportioned(above, ends, segment_seconds).tolist()),
        head_energy_above_idle=tuple((head_energy - idle.median * head_seconds).tolist()),
        relative_error_energy=relative_error(segment_energy, end_to_end),
    )


def _apportioned(prefix_joules: Sequence[float], ends: Sequence[int], seconds: Floats) -> Floats:
    """``[E+1]``: apportion the joules between the ends of two prefixes by seconds."""
    shared = np.empty(len(seconds))
    for first, last, joules in zip([0, *ends[:-1]], ends, np.diff(prefix_joules, prepend=0.0), strict=True):
        stretch = seconds[first:last]
        shared[first:last] = joules * stretch / stretch.sum()
    return shared


def relative_error(segments: Floats, end_to_end: Spread) -> float:
    """(Sum of the segments - end to end) / end to end."""
    return float(segments.sum() / end_to_end.median - 1)
