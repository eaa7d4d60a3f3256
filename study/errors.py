"""The exception for mistakes of the user, and other errors that a user can mend."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


class UserError(ValueError):
    """A user's mistake, told in one line: what was wrong, where, and what would be right.

    The command line prints the line on stderr and ends with exit code 2. Other exceptions are faults of the program and
    keep their traceback.
    """


def foreign_package() -> str | None:
    """The line that tells of another package by the name of one of this program's, or None.

    Python imports the package of a name that it finds first on ``sys.path``: on PYTHONPATH or beside a notebook may lie
    a package ``results`` of the user's own.
    """
    for name in ("results", "search_spaces"):
        own = Path(__file__).resolve().parents[1] / name
        found = find_spec(name)
        place = found.origin if found else None
        if place is None or Path(place).resolve() != own / "__init__.py":
            return (
                f"Python finds another package {name!r} before the one of this program ({own}): {place}; rename the "
                "other package, or remove the folder that holds it from PYTHONPATH and start in another folder"
            )
    return None


def is_lack_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether an error tells of full memory. Torch has an exception type for a full GPU only."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # the name needs no import of torch
        or "DefaultCPUAllocator: " in str(error)
    )
