"""The settings, images and versions that computed a row of a table, under one short name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from results.parts import write_part
from results.storage.paths import Location
from search_spaces.spec import StudySpec
from study.run.folder import without_free_keys
from study.storage.publish import content_hash
from study.storage.strict_json import dumps
from study.storage.versions import versions

MACHINE = ("device", "threads")
"""Columns of the table ``trials``; in the table ``provenance`` they would double the rows."""


@dataclass(frozen=True)
class Provenance:
    """The settings and images of a study, and the names of provenance that follow for some versions."""

    spec: StudySpec
    data_digest: str

    @cached_property
    def _study(self) -> str:
        return dumps(without_free_keys(self.spec.plain()))

    def row(self, made_by: Mapping[str, str]) -> dict[str, Any]:
        """The row of the table ``provenance`` for some versions."""
        made_by = {name: value for name, value in made_by.items() if name not in MACHINE}
        values = {
            "study": self._study,
            "seed": self.spec.seed,
            "data_digest": self.data_digest,
            "code_version": made_by["predictive-exit"],
            "code_digest": made_by.get("code"),
            "versions": dumps(dict(made_by)),
        }
        return {"provenance": content_hash(values), **values}

    def name(self, made_by: Mapping[str, str] | None = None) -> str:
        """The name that the rows of other tables carry; by default for the versions that run now."""
        return str(self.row(versions() if made_by is None else made_by)["provenance"])

    def record(self, tables: Location, all_versions: Iterable[Mapping[str, str]] = ()) -> None:
        """Write the rows of the versions that run now, and of other versions that computed trials."""
        for made_by in (versions(), *all_versions):
            row = self.row(made_by)
            write_part(tables, "provenance", [row], row["provenance"])
