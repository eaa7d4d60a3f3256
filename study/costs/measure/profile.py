"""What a measured cost profile holds, how its energies follow from its windows, and how it is stored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from results.storage.paths import Location
from study.arrays import Floats
from study.costs.costs import Costs
from study.costs.measure.meters import MeterSource, device_name
from study.errors import UserError, short
from study.networks.precisions import PRECISIONS, Precision
from study.storage.strict_json import parse_json

if TYPE_CHECKING:  # the networks import torchvision, which a stored value does not need
    from study.networks.inference_network import Int8Execution


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
    """Passes are repeated until a window has lasted so long for every part that is timed in it."""
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
    """The profile in a file.

    Raises:
        UserError: there is no such file, or it holds none.
        OSError: it cannot be read.
    """
    if not path.is_file():  # a pipe could be waited for without end
        raise UserError(f"{path}: {'this is no file' if path.exists() else 'no such profile'}: name a profile's .json")
    try:
        return Profile.from_json(path.read_bytes())
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


_WITH_SPREADS = (
    *("segment_seconds", "head_seconds", "engine_step_seconds", "end_to_end_seconds", "idle_watts"),
    *("end_to_end_joules", "end_to_end_joules_above_idle", "segment_energy_above_idle", "head_energy_above_idle"),
)


def _revived(value: Any) -> Any:
    """Lists as tuples and objects as spreads."""
    if isinstance(value, list):
        return tuple(_revived(entry) for entry in value)
    return Spread(**value) if isinstance(value, dict) else value


def check_same_device(profile: Profile, device: torch.device) -> None:
    """Refuse a profile of another device than the one that runs.

    Raises:
        UserError: it was measured elsewhere.
    """
    here = device_name(device)
    if profile.costs.device != here:
        raise UserError(
            f"the cost profile was measured on {profile.costs.device}, this is {here}: measure it here, or ask "
            "for it all the same (--other-device; in a study resources.profiles_of_other_device)"
        )


def with_energies(profile: Profile, source: MeterSource) -> Profile:
    """A profile of seconds and energy windows, with the joules of each part.

    Raises:
        UserError: a prefix took no more joules than a shorter one.
    """

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
    segment_energy = _shared_out(gross, ends, segment_seconds)
    above = [joules("prefix", end, less_watts=idle.median).median for end in ends]
    power = median(window.joules / window.seconds for window in windows("prefix", ends[-1]))
    step_power = power if source == "rapl" else idle.median
    end_to_end = joules("end_to_end", ends[-1])
    return replace(
        profile,
        costs=replace(
            profile.costs,
            segment_energy=segment_energy,
            head_energy=power * head_seconds,
            engine_step_energy=step_power * step_seconds,
            energy_source=source,
        ),
        idle_watts=idle,
        end_to_end_joules=end_to_end,
        end_to_end_joules_above_idle=joules("end_to_end", ends[-1], less_watts=idle.median),
        segment_energy_above_idle=tuple(_shared_out(above, ends, segment_seconds).tolist()),
        head_energy_above_idle=tuple(((power - idle.median) * head_seconds).tolist()),
        relative_error_energy=relative_error(segment_energy, end_to_end),
    )


def _shared_out(prefix_joules: Sequence[float], ends: Sequence[int], seconds: Floats) -> Floats:
    """``[E+1]``: the joules between the ends of two prefixes, by seconds."""
    shared = np.empty(len(seconds))
    for first, last, joules in zip([0, *ends[:-1]], ends, np.diff(prefix_joules, prepend=0.0), strict=True):
        stretch = seconds[first:last]
        shared[first:last] = joules * stretch / stretch.sum()
    return shared


def relative_error(segments: Floats, end_to_end: Spread) -> float:
    """(Sum of the segments - end to end) / end to end."""
    return float(segments.sum() / end_to_end.median - 1)
