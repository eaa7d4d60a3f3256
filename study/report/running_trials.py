"""The learning curves of trials that no table has yet: a stage of training writes the tables when it ends."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd

from results.storage.paths import Location
from search_spaces.settings import HEAD_MODES
from study.checkpoints.description import is_trial_id, read_description
from study.errors import UserError
from study.report.source import Source
from study.run.folder import stored_study_file

_COLUMNS = ["trial_id", "phase", "epoch", "score", "train_loss", "validation_loss"]


def running_epochs(source: Source) -> pd.DataFrame:
    """The epochs of trials that the table ``epochs`` lacks, from the descriptions of their last checkpoints.

    The columns are those of the table that the curves need. No tensor is read. A study with a front has no such trials;
    a trial whose checkpoint is damaged, or moves meanwhile, is left out.
    """
    rows = []
    if source.table("front").empty and "front" not in source.damaged:
        known = set(source.table("epochs")["trial_id"])
        digests = stored_study_file(source.folder)["provenance"].get("data_digest") or {}
        trials: list[Location] = sorted((source.folder / "checkpoints").glob("*"), key=str)
        for trial in trials:
            if trial.name in known or not is_trial_id(trial.name):
                continue
            try:
                found = read_description(trial / "last")
            except (UserError, OSError):
                continue
            if found is None or found.data.digest != digests.get(source.data, found.data.digest):
                continue
            phase = "exits" if found.training.mode in HEAD_MODES else "backbones"
            rows += [{"trial_id": trial.name, "phase": phase, **asdict(epoch)} for epoch in found.history]
    return pd.DataFrame(rows, columns=_COLUMNS)
