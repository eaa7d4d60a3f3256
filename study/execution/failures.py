"""Failures of trials: their reasons, and the file that keeps the reasons until the trials are tried again."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from results.storage.atomic import write_atomic
from results.storage.paths import Location, is_no_file
from study.errors import UserError
from study.storage.strict_json import dumps, parse_json

if TYPE_CHECKING:  # it brings torch, and `status` is to be quick
    from study.execution.trial_plan import TrialPlan


@dataclass(frozen=True)
class Failure:
    """The reason why a trial did not finish."""

    error: str
    """One line."""
    worker_died: bool
    """The process that trained the trial ended, or its node did: nothing is known against the trial itself."""


_LONGEST_ERROR = 800
_STORAGE_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EIO,
    errno.ESTALE,
    errno.ENOTCONN,
)


def last_line(error: BaseException | str) -> str:
    """The last line of an error's text, where Python and Ray put the reason; long lines end after a whole sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return "unknown error" if isinstance(error, str) else type(error).__name__
    line = lines[-1]
    if len(line) <= _LONGEST_ERROR:
        return line
    whole, dot, _ = line[:_LONGEST_ERROR].rpartition(". ")
    return f"{whole}." if dot else f"{line[:_LONGEST_ERROR].rpartition(' ')[0]} ..."


def refuse_lost_storage(error: BaseException) -> None:
    """Stop the study at a full or lost disk: no trial is at fault, and a study that went on would lack the trial.

    Raises:
        UserError: the error is of that kind.
    """
    cause = getattr(error, "cause", error)
    if isinstance(cause, OSError) and cause.errno in _STORAGE_ERRORS:
        raise UserError(f"{last_line(cause)}: mend that; the same command goes on from here")


@dataclass(frozen=True)
class FailureLog:
    """``failures.json`` of a run folder: trial id -> ``error`` (one line), ``mode``, ``digest`` of the images, and
    ``parent``. Only the driver writes the file."""

    path: Location

    def read(self) -> dict[str, dict[str, str | None]]:
        """All failures; none where the file is damaged, since the next start finds the failures again."""
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
        """Log that a trial failed."""
        row = {"error": error, "mode": plan.training.mode, "digest": plan.data_digest, "parent": plan.parent}
        self._write({**self.read(), plan.trial_id: row})

    def forget(self, trial_ids: Iterable[str]) -> None:
        """Remove trials that are tried again."""
        known, gone = self.read(), set(trial_ids)
        if gone & set(known):
            self._write({key: row for key, row in known.items() if key not in gone})

    def _write(self, failures: Mapping[str, Mapping[str, str | None]]) -> None:
        write_atomic(self.path, dumps(failures, indent=1).encode())
