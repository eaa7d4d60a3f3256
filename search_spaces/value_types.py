"""The types of the values in a study file: choices, placements, and numbers that ``auto`` may stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer

from search_spaces.choices import MOST_TRIALS, Choice, Kind, parse_choice
from search_spaces.words import short

plain = PlainSerializer(lambda value: value.plain() if isinstance(value, Choice) else value)


def parse(kind: Kind, *words: str) -> BeforeValidator:
    """Read a choice of some kind, or one of the words."""
    return BeforeValidator(lambda raw: raw if raw in words else parse_choice(raw, kind))


def expect(what: str, good: Callable[[Any], bool]) -> BeforeValidator:
    """Refuse a value that is not good, in words."""

    def check(raw: object) -> object:
        if good(raw):
            return raw
        raise ValueError(f"expected {what}, got {short(raw)!r}")

    return BeforeValidator(check)


def _is_placement(raw: object) -> bool:
    if not isinstance(raw, list) or not raw or any(type(exit) is not int for exit in raw):
        return False
    return bool(raw[0] >= 1) and raw == sorted(set(raw))


def _are_placements(raw: object) -> bool:
    return raw == "auto" or (isinstance(raw, list) and bool(raw) and all(map(_is_placement, raw)))


Integer: TypeAlias = Annotated[Choice, parse("integer"), plain]
Name: TypeAlias = Annotated[Choice, parse("name"), plain]
Beta: TypeAlias = Annotated[Choice | Literal["auto", "per_exit"], parse("number", "auto", "per_exit"), plain]
AutoNumber: TypeAlias = Annotated[Choice | Literal["auto"], parse("number", "auto"), plain]
AutoInteger: TypeAlias = Annotated[Choice | Literal["auto"], parse("integer", "auto"), plain]
Slack: TypeAlias = Annotated[
    float | Literal["auto"],
    expect("auto or a number from 0", lambda raw: raw == "auto" or (isinstance(raw, int | float) and raw >= 0)),
]
Placements: TypeAlias = Annotated[
    list[list[int]] | Literal["auto"], expect("auto or a list of rising lists of exits from 1", _are_placements)
]
Trials: TypeAlias = Annotated[
    int | Literal["grid"],
    expect(
        f"a number of trials from 1 to {MOST_TRIALS}, or grid",
        lambda raw: raw == "grid" or (type(raw) is int and 1 <= raw <= MOST_TRIALS),
    ),
]
Count: TypeAlias = Annotated[int, Field(ge=1, le=10**9)]
