"""What a report reads of a run folder. A part that is missing or damaged becomes a sentence, not an error."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from results.parts import of_data, read_or_empty, rows_of
from results.schemas import SCHEMAS, TableError
from results.storage.paths import Location
from results.summary import FrontSummary, summarize_front
from search_spaces.spec import SpecError, StudySpec, validate_space
from study.errors import UserError
from study.run.folder import STUDY_FILE, stored_study_file
from study.run.stored_front import code_option
from study.storage.publish import DamagedError

if TYPE_CHECKING:
    from study.search.traced_network import TracedNetwork

EXPECTED = (UserError, TableError, SpecError, OSError)
"""Errors that tell of a study that is incomplete or damaged; the page says their line."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A study on one of its data sets, as its run folder has it."""

    folder: Location
    spec: StudySpec
    data: str
    problems: list[str] = field(default_factory=list)
    """What could not be read, a line each; grows as parts are read."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Table -> what is wrong with it and what to do, of the tables that cannot be read."""

    @property
    def tables(self) -> Location:
        """The folder of the tables."""
        return self.folder / "tables"

    def table(self, name: str) -> pd.DataFrame:
        """The rows of the data set in a table; none, and a problem, where the table cannot be read."""
        return self._read[name]

    @cached_property
    def _read(self) -> dict[str, pd.DataFrame]:
        found: dict[str, pd.DataFrame] = {}
        for name in SCHEMAS:
            try:
                table = read_or_empty(self.tables, name)
            except EXPECTED as error:
                self.damaged[name] = self._with_mending(error)
                self.problems.append(f"Damaged: {self.damaged[name]}")
                table = SCHEMAS[name].empty_table().to_pandas()
            found[name] = of_data(table, self.data) if "data" in table else table
        return found

    @cached_property
    def summary(self) -> FrontSummary | None:
        """The front beside the classic network; None where there is no front, or none that can be read."""
        if self.table("front").empty or self.table("exits").empty:
            return None
        try:
            return summarize_front(self.tables, data=self.data)
        except EXPECTED as error:
            self.problems.append(str(error))
            return None

    @cached_property
    def networks(self) -> Sequence[TracedNetwork] | str:
        """The searched networks with their stored traces; or the sentence that says why there are none."""
        if not (self.folder / "traces").exists():
            return "This copy of the study has no traces (the stored outputs of all exits)."
        from study.run.reader import stored_networks

        try:
            return stored_networks(self.folder, self.spec.operating_points, self.data)
        except DamagedError as error:
            return f"Damaged: {self._with_mending(error)}"
        except EXPECTED as error:
            return str(error)

    @cached_property
    def searched(self) -> pd.DataFrame:
        """The operating points that were evaluated, without repeats; of the searches of the front, where it exists."""
        points = self.table("operating_points")
        done = points[(points["state"] == "COMPLETE") & points["repeat_of"].isna()]
        front = self.table("front")
        return done if front.empty else done[done["search"].isin(front["search"].unique())]

    @cached_property
    def names(self) -> dict[str, str]:
        """Trial -> what its network is, as ``vgg19 x 0.25``; with the trial where several networks are alike."""
        trials = self.table("trials").dropna(subset=["backbone", "width"])
        searched = self.searched["trial_id"].unique() if len(self.searched) else trials["trial_id"]
        found = {
            row["trial_id"]: f"{row['backbone']} x {row['width']:g}"
            for row in rows_of(trials)
            if row["trial_id"] in set(searched)
        }
        several = {name for name, count in Counter(found.values()).items() if count > 1}
        return {trial: f"{name} ({trial[:4]})" if name in several else name for trial, name in found.items()}

    def network(self, trial: str, precision: str) -> str:
        """A network at a precision, in words."""
        return f"{self.names.get(trial, trial)}, {precision}"

    @property
    def is_exact(self) -> bool:
        """Whether phase 2 computes the exact front, and asks no sampler."""
        return self.spec.operating_points.search == "exact"

    def command(self, *words: str) -> str:
        """A command to copy."""
        return " ".join(["predictive-exit", *(shlex.quote(word) for word in words)])

    def of_data(self) -> tuple[str, ...]:
        """The option that names the data set, in a study of several."""
        return ("--data", self.data) if len(self.spec.data.names) > 1 else ()

    def to_run_networks(self) -> tuple[str, ...]:
        """The options of a command that builds the networks: the data set, the folder of own backbones."""
        return (*self.of_data(), *code_option(self.spec))

    @property
    def mending(self) -> str:
        """What a reader can do about a damaged file of the run folder, a sentence."""
        if (self.folder / "checkpoints").exists():
            return "Give the same `run` command again: it sets damaged files aside and computes their content again."
        return "This copy has no weights to compute the file from: copy it again from where the study was run."

    def damage(self, tables: Sequence[str]) -> list[str]:
        """A sentence for each of some tables that cannot be read."""
        found = self._read and self.damaged
        return [f"The table {one} is damaged: {found[one]}" for one in tables if one in found]

    def _with_mending(self, error: Exception) -> str:
        """What an error says, as a sentence, and what to do; a file of another program brings its own advice."""
        is_foreign = isinstance(error, TableError) and "cannot be read" not in str(error)
        said = f"{str(error).rstrip('.')}."
        return said if is_foreign else f"{said} {self.mending}"

    @property
    def has_weights(self) -> bool:
        """Whether the folder holds checkpoints on this machine."""
        return isinstance(self.folder, Path) and (self.folder / "checkpoints").is_dir()


def sources_of(folder: Location) -> list[Source]:
    """The study of a run folder, once for each of its data sets.

    Raises:
        UserError: the folder is no run folder.
        SpecError: the study file is of no study.
    """
    stored = stored_study_file(folder)
    spec = validate_space(stored["study"], str(folder / STUDY_FILE))
    return [Source(folder=folder, spec=spec, data=name) for name in spec.data.names]
