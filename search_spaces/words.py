"""Texts of messages. Only the standard library is imported here."""

from __future__ import annotations


def short(value: object, most: int = 60) -> str:
    """The beginning of the text of a value, in one line."""
    return " ".join(str(value).split())[:most]
