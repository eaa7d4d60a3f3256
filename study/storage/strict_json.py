"""JSON that a file holds, read without trust."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

if TYPE_CHECKING:
    from pydantic import TypeAdapter


_T = TypeVar("_T")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, is not UTF-8, is nested without end, or holds a number that is not finite.
    """
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text[:60]}")
    return value


def from_fields(kind: type[_T], values: Mapping[str, Any]) -> _T:
    """A dataclass from values of its fields that came from somewhere else.

    (A machine that only trains may lack pydantic; there, types are not checked.)

    Raises:
        ValueError: a field is unknown, or a value has not its type; what the class itself refuses.
        TypeError: a field is missing.
    """
    adapters = _adapters(cast(type, kind))
    for name, value in values.items():
        if name not in adapters:
            raise ValueError(f"{str(name)[:60]!r} is unknown")
        problem = _problem(adapters[name], value)
        if problem:
            raise ValueError(f"{name}: {problem}, got {str(value)[:60]!r}")
    return kind(**values)


def _problem(adapter: TypeAdapter[Any] | None, value: object) -> str | None:
    if adapter is None:
        return None
    from pydantic import ValidationError

    try:
        adapter.validate_python(value)
    except ValidationError as error:
        return str(error.errors(include_url=False)[0]["msg"])
    return None


@cache
def _adapters(kind: type) -> Mapping[str, TypeAdapter[Any] | None]:
    """For each field of a dataclass, what checks its type."""
    try:
        from pydantic import ConfigDict, TypeAdapter
    except ModuleNotFoundError:
        return dict.fromkeys(get_type_hints(kind))
    strict = ConfigDict(strict=True)
    return {
        name: TypeAdapter(hint) if hasattr(hint, "__dataclass_fields__") else TypeAdapter(hint, config=strict)
        for name, hint in get_type_hints(kind).items()
    }
