"""Paths as users write them."""

from __future__ import annotations

from pathlib import Path

from results.storage.paths import Location, expanded, location
from study.errors import UserError


def user_path(text: str | Path) -> Path:
    """A path whose ``~`` or ``~user`` stands for a home folder.

    Raises:
        UserError: the home folder is not known.
    """
    try:
        return expanded(Path(text))
    except ValueError as error:
        raise UserError(str(error)) from None


def user_location(text: str | Path, below: Path = Path()) -> Location:
    """A place that is an address of an object store, as ``s3://bucket/folder``, or a path, below a folder.

    Raises:
        UserError: the address cannot be used, or the home folder is not known.
    """
    try:
        if "://" in str(text):
            return location(str(text))
    except ValueError as error:
        raise UserError(str(error)) from None
    return user_path(below) / user_path(text)
