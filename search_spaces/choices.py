"""Values of a study file that stand for a choice: one value, a list of values, or a range."""

from __future__ import annotations

import itertools
import math
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

Scalar: TypeAlias = bool | int | float | str | None
Kind = Literal["number", "integer", "name"]
MOST_TRIALS = 100_000
"""The largest number of trials of a phase of training. All trials are planned before the first trial starts."""
LARGEST_INTEGER = 10**9
"""Above every sensible number of images in a batch, codewords or exits."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A dimension of a search: ``values``, or every number from ``low`` to ``high``."""

    values: tuple[Scalar, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False

    @property
    def is_range(self) -> bool:
        """Whether the choice is a range rather than a list."""
        return not self.values

    def sample(self, rng: np.random.Generator) -> Scalar:
        """One value, uniformly (in the logarithm where ``log``)."""
        if not self.is_range:
            return self.values[int(rng.integers(len(self.values)))]
        if self.integer and not self.log:
            return int(rng.integers(int(self.low), int(self.high) + 1))
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = rng.uniform(self.low, self.high)
        # Seven digits suffice for a learning rate, and the tables stay readable.
        value = float(round(value)) if self.integer else float(f"{value:.7g}")
        value = min(max(value, self.low), self.high)
        return int(value) if self.integer else value

    @property
    def largest(self) -> float:
        """The largest number among the choices."""
        return self.high if self.is_range else max(float(value) for value in self.values)  # type: ignore[arg-type]

    @property
    def smallest(self) -> float:
        """The smallest number among the choices."""
        return self.low if self.is_range else min(float(value) for value in self.values)  # type: ignore[arg-type]

    def plain(self) -> object:
        """The choice as it would stand in a study file."""
        if self.is_range:
            low, high = (int(self.low), int(self.high)) if self.integer else (self.low, self.high)
            return {"low": low, "high": high, "log": self.log}
        return self.values[0] if len(self.values) == 1 else list(self.values)


def parse_choice(raw: object, kind: Kind) -> Choice:
    """Read a choice from a study file: a value, a list of values, or, of numbers, ``{low: .., high: .., log: false}``.

    Raises:
        ValueError: what is wrong, in one line.
    """
    if isinstance(raw, Choice):
        return raw
    if isinstance(raw, Mapping):
        return _parse_range(raw, kind)
    values = raw if isinstance(raw, list) else [raw]
    if not values:
        raise ValueError("the list of choices is empty")
    parsed = tuple(_parse_scalar(value, kind) for value in values)
    if len(set(parsed)) != len(parsed):
        raise ValueError(f"the list of choices {reprlib.repr(values)} names a value twice")
    return Choice(values=parsed, integer=kind == "integer")


def _parse_scalar(value: object, kind: Kind) -> Scalar:
    if kind == "name":
        if isinstance(value, str) and value:
            return value
        raise ValueError(f"expected a name or a list of names, got {reprlib.repr(value)}")
    number = _finite_number(value)
    if number is not None and kind == "number":
        return number
    if number is not None and number == int(number) and not isinstance(value, str) and abs(number) <= LARGEST_INTEGER:
        return int(number)
    what = "a number" if kind == "number" else f"a whole number up to {LARGEST_INTEGER}"
    raise ValueError(f"expected {what}, a list of them or {{low, high, log}}, got {reprlib.repr(value)}")


def _finite_number(value: object) -> float | None:
    """The value as a number. YAML reads 1e-3, without a dot, as text; such text is read as a number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _parse_range(raw: Mapping[Any, Any], kind: Kind) -> Choice:
    if kind == "name":
        raise ValueError("names cannot form a range: give a list")
    unknown = set(raw) - {"low", "high", "log"}
    if unknown or not {"low", "high"} <= set(raw):
        raise ValueError(f"a range has the keys low, high and log, got {sorted(map(str, raw))}")
    low, high = _parse_scalar(raw["low"], kind), _parse_scalar(raw["high"], kind)
    log = raw.get("log", False)
    if not isinstance(log, bool):
        raise ValueError(f"log must be true or false, got {log!r}")
    assert isinstance(low, int | float) and isinstance(high, int | float)
    if low >= high:
        raise ValueError(f"the range is empty: low {low} is not below high {high}")
    if log and low <= 0:
        raise ValueError(f"a logarithmic range needs low above 0, got {low}")
    return Choice(low=low, high=high, log=log, integer=kind == "integer")


def draw(choices: Mapping[str, Choice], trials: int | Literal["grid"], seed: int) -> list[dict[str, Scalar]]:
    """Distinct settings of a phase: the whole grid, or a random sample.

    The settings of trial i depend only on the seed and on i, so that a longer study repeats a shorter one.

    Returns:
        At most ``trials`` settings: a small space holds fewer.

    Raises:
        ValueError: a grid over a range, or one of too many trials.
    """
    names = sorted(choices)
    if trials == "grid":
        for name in names:
            if choices[name].is_range:
                raise ValueError(f"trials: grid needs lists, but {name} is a range")
        size = math.prod(len(choice.values) for choice in choices.values())
        if size > MOST_TRIALS:
            raise ValueError(f"trials: grid has {size} trials here, more than {MOST_TRIALS}: give a number of trials")
        return [
            dict(zip(names, values, strict=True)) for values in itertools.product(*(choices[n].values for n in names))
        ]
    return list(itertools.islice(_distinct(choices, names, seed), trials))


def _distinct(choices: Mapping[str, Choice], names: list[str], seed: int) -> Iterator[dict[str, Scalar]]:
    seen: set[tuple[Scalar, ...]] = set()
    misses = 0
    for index in itertools.count():
        rng = np.random.default_rng([seed, index])
        values = tuple(choices[name].sample(rng) for name in names)
        # A finite space runs out of new settings. 1,000 repeats in a row end the drawing.
        misses = misses + 1 if values in seen else 0
        if misses > 1000:
            return
        if values not in seen:
            seen.add(values)
            yield dict(zip(names, values, strict=True))
