"""The images of a data set in one line, for every start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search_spaces.words import printable


def images_line(name: str, counts: Mapping[str, int], notes: Sequence[str]) -> str:
    """The classes and images of a data set, and what a user should know of them."""
    splits = ", ".join(f"{count} {split}" for split, count in counts.items() if split != "classes")
    return printable("; ".join([f"{name}: {counts['classes']} classes", f"images: {splits}", *notes]))
