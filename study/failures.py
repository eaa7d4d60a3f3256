"""Trials that failed, and why: known while a study still runs, and until they are tried again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from results.files import write_atomic
from results.locations import Location, is_no_file
from study.strict_json import parse_json


@dataclass(frozen=True)
class FailureLog:
    """``failures.json`` of a run folder: trial id -> error, one line. Only the driver writes it."""

    path: Location

    def read(self) -> dict[str, str]:
        """All of them; none where the file is damaged, for it only tells what the next start would find out."""
        try:
            found = {} if is_no_file(self.path) else parse_json(self.path.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return {str(key): str(text) for key, text in found.items()} if isinstance(found, dict) else {}

    def add(self, trial_id: str, error: str) -> None:
        """A trial failed."""
        self._write({**self.read(), trial_id: error})

    def forget(self, trial_ids: Iterable[str]) -> None:
        """These trials are tried again."""
        known, gone = self.read(), set(trial_ids)
        if gone & set(known):
            self._write({key: text for key, text in known.items() if key not in gone})

    def _write(self, failures: dict[str, str]) -> None:
        write_atomic(self.path, json.dumps(failures, indent=1).encode())
