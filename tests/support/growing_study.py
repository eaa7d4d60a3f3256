"""A run folder that grows as one of a running study does: first its study file, then tables, row by row."""

from __future__ import annotations

import shutil
from pathlib import Path

from results.parts import read_table, rows_of, write_part
from support.fabricated_study import fabricate

POINTS, FRONT = 40, 12


class GrowingStudy:
    """The folder, and the finished study of which it gets one piece after another."""

    def __init__(self, where: Path, *, name: str = "made-up") -> None:
        self.whole = fabricate(where / "whole" / name, POINTS, FRONT, name=name)
        self.folder = where / name
        self.folder.mkdir()
        shutil.copy(self.whole / "study.yaml", self.folder)

    def train(self) -> None:
        """Both stages of phase 1 end."""
        (trial,) = rows_of(read_table(self.whole / "tables", "trials"))
        for phase in ("backbones", "exits"):
            row = trial | {"phase": phase, "trial_id": phase[0] * 12, "status": "finished", "epochs_done": 2}
            write_part(self.folder / "tables", "trials", [row], f"digits-{phase}")

    def search(self, first: int, last: int) -> None:
        """Operating points ``first`` to ``last`` - 1 are evaluated, a part each."""
        for row in list(rows_of(read_table(self.whole / "tables", "operating_points")))[first:last]:
            write_part(self.folder / "tables", "operating_points", [row], row["number"])

    def finish(self) -> None:
        """The other tables are written."""
        for name in ("costs", "exits", "front"):
            shutil.copytree(self.whole / "tables" / name, self.folder / "tables" / name)
