"""Trials that failed, and why: known while a study still runs, and until they are tried again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from results.storage.atomic import write_atomic
from results.storage.paths import Location, is_no_file
from study.storage.strict_json import dumps, parse_json

if TYPE_CHECKING:  # it brings torch, and `status` is to be quick
    from study.execution.trial import TrialPlan


@dataclass(frozen=True)
class FailureLog:
    """``failures.json`` of a run folder: trial id -> ``error``, one line, and the trial's ``mode``, ``digest`` of its
    images and ``parent``. Only the driver writes it."""

    path: Location

    def read(self) -> dict[str, dict[str, str | None]]:
        """All of them; none where the file is damaged, for it only tells what the next start would find out."""
        try:
            found = {} if is_no_file(self.path) else parse_json(self.path.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        if not (isinstance(found, dict) and all(isinstance(row, dict) for row in found.values())):
            return {}
        fields = ("error", "mode", "digest", "parent")
        return {
            key: {name: None if row.get(name) is None else str(row[name]) for name in fields}
            for key, row in found.items()
        }

    def add(self, plan: TrialPlan, error: str) -> None:
        """A trial failed."""
        row = {"error": error, "mode": plan.training.mode, "digest": plan.data_digest, "parent": plan.parent}
        self._write({**self.read(), plan.trial_id: row})

    def forget(self, trial_ids: Iterable[str]) -> None:
        """These trials are tried again."""
        known, gone = self.read(), set(trial_ids)
        if gone & set(known):
            self._write({key: row for key, row in known.items() if key not in gone})

    def _write(self, failures: Mapping[str, Mapping[str, str | None]]) -> None:
        write_atomic(self.path, dumps(failures, indent=1).encode())
