"""JSON: read without trust, written without numbers that JSON does not know."""

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
        ValueError: the text is no JSON, is not UTF-8, is nested too deeply, or holds a number that is not finite.
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


def dumps(value: object, *, indent: int | None = None, compact: bool = False) -> str:
    """The JSON text of plain values, numpy numbers and numpy arrays; a number that is not finite becomes ``null``.

    ``compact`` leaves out the spaces between values.

    Raises:
        TypeError: a value has no form in JSON.
    """
    separators = (",", ":") if compact else None
    return json.dumps(_finite_or_null(value), indent=indent, separators=separators, allow_nan=False)


def _finite_or_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite_or_null(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_or_null(one) for one in value]
    if hasattr(value, "tolist"):
        return _finite_or_null(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_fields(kind: type[_T], values: Mapping[str, Any]) -> _T:
    """A dataclass from values of its fields that came from a file.

    Raises:
        ValueError: a field is unknown, or a value does not have the field's type; or the class refuses a value.
        TypeError: a field is missing.
    """
    from pydantic import ValidationError  # here: a program that only trains reads no such values

    checks = _checks(cast(type, kind))
    for name, value in values.items():
        if name not in checks:
            raise ValueError(f"{str(name)[:60]!r} is unknown")
        try:
            checks[name].validate_python(value)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]["msg"]
            raise ValueError(f"{name}: {problem}, got {str(value)[:60]!r}") from None
    return kind(**values)


@cache
def _checks(kind: type) -> Mapping[str, TypeAdapter[Any]]:
    """For each field of a dataclass, what checks its type."""
    from pydantic import ConfigDict, TypeAdapter

    strict = ConfigDict(strict=True)
    return {
        name: TypeAdapter(hint) if hasattr(hint, "__dataclass_fields__") else TypeAdapter(hint, config=strict)
        for name, hint in get_type_hints(kind).items()
    }
