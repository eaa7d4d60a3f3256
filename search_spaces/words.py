"""Texts of messages. Only the standard library is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

COST_NAMES = {"flops": "FLOPs", "energy": "energy"}
"""Cost -> its name in sentences and headings."""
_UNION_BRANCHES = ("int", "float", "str", "list[str]", "literal['grid']", "literal['auto']", "list[list[int]]")


def short(value: object, most: int = 60) -> str:
    """The beginning of the text of a value, in one line."""
    return " ".join(str(value).split())[:most]


def printable(text: str) -> str:
    """A text with its control characters escaped, so that a terminal does not obey them."""
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)


def validation_problem(
    error: ValidationError, whole: str, *, model: type[BaseModel], mapping: str = "a mapping of keys"
) -> str:
    """The first problem that pydantic found, in one line, and the number of further problems.

    ``whole`` names the content, for a problem that belongs to no key; ``model`` is what the content must be;
    ``mapping`` says how a section is written.
    """
    problems = error.errors(include_url=False)
    first = problems[0]
    # Pydantic adds the branch of a union to the place; the file has no such key.
    key = ".".join(short(part) for part in first["loc"] if part not in _UNION_BRANCHES) or whole
    message = {"missing": "this key is required"}.get(first["type"])
    if first["type"] == "extra_forbidden":
        message = f"unknown key{_alike(model, first['loc'])}"
    if message is None:
        is_section = first["type"] in ("model_type", "model_attributes_type")
        message = f"expected {mapping}" if is_section else first["msg"].removeprefix("Value error, ")
        of_section = first["type"] == "value_error" and isinstance(
            first["input"], dict
        )  # its keys contradict each other
        if "got" not in message and not of_section:
            message = f"{message}, got {short(first['input'])!r}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{key}: {message}{more}"


def _alike(model: type[BaseModel], place: Sequence[int | str]) -> str:
    """The keys that an unknown key could stand for; empty where its section takes any key."""
    *sections, key = place
    for section in sections:
        field = model.model_fields.get(str(section))
        inside = (field.annotation, *get_args(field.annotation)) if field else ()
        found = next((one for one in inside if hasattr(one, "model_fields")), None)
        if found is None:
            return ""
        model = found
    near = get_close_matches(short(key), model.model_fields, n=3, cutoff=0.6)
    return f": did you mean {' or '.join(near)}?" if near else f": known are {', '.join(model.model_fields)}"
