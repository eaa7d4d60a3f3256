"""Costs of one network: FLOPs, seconds and joules of each segment, exit head and engine step, per image.

:class:`Costs` holds numbers from any source: counted, modelled on a device (:mod:`study.costs.model.devices`) or
measured (:class:`study.costs.measure.profile.Profile`, which adds the circumstances of the measurement).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike

from search_spaces.words import short
from study.arrays import Floats
from study.errors import UserError
from study.policies.replay import Tally, Walk
from study.storage.strict_json import dumps, parse_json

Measure = Literal["flops", "bitops", "energy", "seconds"]
"""Per image: 2 x multiply-accumulates, multiply-accumulates x bits of weight x bits of operand, joules, seconds."""
MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True, kw_only=True, eq=False)
class Costs:
    """Cost of every part of a network with E exits, per image.

    Args:
        segment_flops: ``[E+1]``; the last entry is the classifier's.
        head_flops: ``[E]``.
        engine_step_flops: one smoothing step of the prediction engine.
        segment_energy, head_energy, engine_step_energy: joules, or None without a model and without a meter.
        segment_seconds, head_seconds, engine_step_seconds: seconds, or None. Measured seconds of a head include the
            copy of its logits to the host and the decision.
        energy_source: ``nvml``, ``rapl`` or ``modelled:<device table>``; required with energies.
        segment_bitops, head_bitops, engine_step_bitops: multiply-accumulates x bits of weight x bits of operand.
        seconds_source: ``measured`` or ``modelled:<device table>``.
        device: the device of seconds and energies.
        batch_size: images in a batch, for which seconds and energies hold.
        cascaded: whether an image pays for the head of each segment that it runs through, tried or not
            (:mod:`study.networks.cascade`).
        decision_flops: operations of a decision at an exit that is tried, beside ``head_flops``.

    Raises:
        UserError: lengths do not fit, a cost is negative or not finite, or energies have no source.
    """

    segment_flops: ArrayLike
    head_flops: ArrayLike
    engine_step_flops: float = 0.0
    segment_energy: ArrayLike | None = None
    head_energy: ArrayLike | None = None
    engine_step_energy: float = 0.0
    segment_seconds: ArrayLike | None = None
    head_seconds: ArrayLike | None = None
    engine_step_seconds: float = 0.0
    energy_source: str | None = None
    segment_bitops: ArrayLike | None = None
    head_bitops: ArrayLike | None = None
    engine_step_bitops: float = 0.0
    seconds_source: str | None = None
    device: str | None = None
    batch_size: int = 1
    cascaded: bool = False
    decision_flops: float = 0.0

    def __post_init__(self) -> None:
        exits = _numbers("head_flops", self.head_flops).size
        for measure in MEASURES:
            for part, length in (("segment", exits + 1), ("head", exits)):
                name = f"{part}_{measure}"
                value = getattr(self, name)
                if value is None:
                    continue
                array = _numbers(name, value)
                if array.shape != (length,):
                    raise UserError(f"costs: {name} has shape {array.shape}, but {exits} exits need ({length},)")
                if not (np.isfinite(array).all() and (array >= 0).all()):
                    raise UserError(f"costs: {name} holds a negative or non-finite value")
                object.__setattr__(self, name, array)
            if (getattr(self, f"segment_{measure}") is None) != (getattr(self, f"head_{measure}") is None):
                raise UserError(f"costs: segment_{measure} and head_{measure} belong together, but one is missing")
        for name in (*(f"engine_step_{measure}" for measure in MEASURES), "decision_flops"):
            cost = getattr(self, name)
            if not (isinstance(cost, int | float) and np.isfinite(cost) and cost >= 0):
                raise UserError(f"costs: {name} is {short(cost)!r}, but must be finite and >= 0")
        if not isinstance(self.cascaded, bool):
            raise UserError(f"costs: cascaded is {short(self.cascaded)!r}, but must be true or false")
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise UserError(f"costs: batch_size is {self.batch_size!r}, but must be a whole number from 1")
        if self.segment_energy is not None and not self.energy_source:
            raise UserError("costs: energies come without an energy_source (nvml, rapl or modelled:<profile>)")

    @property
    def exit_count(self) -> int:
        """E."""
        return len(cast(Floats, self.head_flops))

    def holds(self, measure: Measure) -> bool:
        """Whether these costs have a measure."""
        return getattr(self, f"segment_{measure}") is not None

    def parts(self, measure: str) -> tuple[Floats, Floats, float]:
        """``(segments [E+1], heads [E], engine step)``, whose sum over a walk is its cost.

        The segments of a cascade hold the costs of their heads. What is left as the costs of heads are the operations
        of decisions; measured seconds of a decision are part of the head's.

        Raises:
            UserError: the measure is unknown, or has no costs.
        """
        segments, heads, step = self._apart(measure)
        if self.cascaded:
            segments, heads = segments + np.append(heads, 0.0), np.zeros_like(heads)
        if measure == "flops":
            heads = heads + self.decision_flops
        return segments, heads, step

    def _apart(self, measure: str) -> tuple[Floats, Floats, float]:
        """Segments and heads, each by itself."""
        if measure not in MEASURES:
            raise UserError(f"cost {measure!r} is unknown: use one of {', '.join(MEASURES)}")
        segments, heads = getattr(self, f"segment_{measure}"), getattr(self, f"head_{measure}")
        if segments is None:
            raise UserError(f"objective {measure}: this cost profile has no {measure}; profile the network first")
        return segments, heads, getattr(self, f"engine_step_{measure}")

    def with_decisions(self, flops: float) -> Costs:
        """The same costs, with the operations of a decision at each exit that is tried."""
        return replace(self, decision_flops=self.decision_flops + flops)

    def per_sample(self, walk: Walk, measure: str) -> Floats:
        """Cost of each sample of a walk, ``[N]``: segments up to the exit, heads tried, engine steps run.

        A walk that tries no exit is a run of the network without exits.
        """
        if self.cascaded and not walk.tried.any():
            return np.full(len(walk.exit_index), self.classic(measure))
        segments, heads, step = self.parts(measure)
        return segments.cumsum()[walk.exit_index - 1] + walk.tried @ heads + walk.engine_steps * step

    def mean(self, tally: Tally, measure: str) -> float:
        """Mean cost of a sample of a counted walk: the mean of :meth:`per_sample`, from the sums over the exits."""
        if self.cascaded and not tally.tried.any():
            return self.classic(measure)
        segments, heads, step = self.parts(measure)
        total = tally.stopped @ segments.cumsum() + tally.tried @ heads + tally.engine_steps * step
        return float(total / tally.samples)

    def classic(self, measure: str) -> float:
        """Cost of the network without exits."""
        return float(self._apart(measure)[0].sum())

    def of_cuts(self, measure: str) -> Floats:
        """``[E+1]``: of the network cut at each exit; the last entry is that of the network without exits."""
        segments, heads, _ = self.parts(measure)
        return np.append(segments.cumsum()[:-1] + heads, self._apart(measure)[0].cumsum()[-1])

    def to_json(self) -> str:
        """All fields as JSON text."""
        return dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Costs:
        """The inverse of :meth:`to_json`; a UserError for a text that holds no costs."""
        try:
            values: dict[str, Any] = parse_json(text)
            return cls(**values)
        except UserError:
            raise
        except (ValueError, TypeError) as error:
            raise UserError(f"costs: this is no cost profile ({short(error, 200)})") from None


def _numbers(name: str, value: ArrayLike) -> Floats:
    try:
        return np.asarray(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        raise UserError(f"costs: {name} holds something that is no number") from None


def same_flops(one: Costs, other: Costs) -> bool:
    """Whether two costs have equal FLOPs in every part, as costs of the same network have."""
    segments, heads, step = one.parts("flops")
    other_segments, other_heads, other_step = other.parts("flops")
    return np.array_equal(segments, other_segments) and np.array_equal(heads, other_heads) and step == other_step
