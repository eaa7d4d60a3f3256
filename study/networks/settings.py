"""Which network to build: its backbone, its width and its exit heads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from search_spaces.settings import BackboneFields, Description, HeadFields, first_problem
from study.errors import UserError
from study.storage.strict_json import from_fields


@dataclass(frozen=True, kw_only=True)
class HeadSettings(HeadFields):
    """Which exit heads a network has; the fields are those of :class:`HeadFields`.

    Raises:
        UserError: a value that a field does not allow.
    """

    def __post_init__(self) -> None:
        if problem := first_problem(self):
            raise UserError(f"setting of the exit heads: {problem}")


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(BackboneFields):
    """Which network to build: the fields of :class:`BackboneFields`, and the exit heads.

    Raises:
        UserError: a value that a field does not allow.
    """

    code: Annotated[
        str | None, Description("digest of the file of the user's own backbone", searched=False, added=True)
    ] = None
    head: HeadSettings = field(default_factory=HeadSettings)

    def __post_init__(self) -> None:
        if problem := first_problem(self):
            raise UserError(f"setting of the network: {problem}")

    @classmethod
    def from_plain(cls, raw: Mapping[str, Any]) -> "NetworkSettings":
        """The inverse of :func:`dataclasses.asdict`, of values that came from somewhere else.

        Raises:
            ValueError, TypeError: a field is missing or unknown, or has a value that it does not allow.
        """
        tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
        return from_fields(cls, {**tuples, "head": from_fields(HeadSettings, raw["head"])})
