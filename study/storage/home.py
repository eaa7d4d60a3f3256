"""Paths as users write them."""

from __future__ import annotations

from pathlib import Path

from results.storage.paths import expanded
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
