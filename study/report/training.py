"""Sections on phase 1: learning curves, and the trials as parallel coordinates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from results.parts import rows_of
from study.report import charts
from study.report.blocks import Column, Figure, Section, table_of
from study.report.running_trials import running_epochs
from study.report.source import Source
from study.report.wording import four_digits

_PHASES = {"backbones": "backbones", "exits": "exit heads"}
_MOST_CURVES = 200
_MOST_AXES = 8


def curve_section(source: Source) -> Section:
    """The learning curves of each phase."""
    epochs, trials = source.table("epochs"), source.table("trials")
    title = "Learning curves"
    epochs = epochs[epochs["trial_id"].isin(trials["trial_id"])]
    running = running_epochs(source)
    if len(running):
        epochs = pd.concat([epochs, running], ignore_index=True) if len(epochs) else running
    if epochs.empty:
        return Section(name="curves", title=title, lacks=["The study has no epoch of training yet."])
    figures, lacks = [], []
    for phase, words in _PHASES.items():
        own = epochs[(epochs["phase"] == phase) & (epochs["epoch"] > 0)]
        if own.empty:
            lacks.append(f"No {words} were trained here.")
            continue
        best = trials[trials["phase"] == phase].sort_values("score", ascending=False)["trial_id"]
        new = running.loc[running["phase"] == phase, "trial_id"].drop_duplicates()
        shown = own[own["trial_id"].isin([*new, *best][:_MOST_CURVES])]
        if shown["trial_id"].nunique() < own["trial_id"].nunique():
            lacks.append(f"The curves of the best {_MOST_CURVES} {words} are drawn.")
        figures.append(
            Figure(
                name=f"curves_{phase}",
                title=f"Validation score of {words} by epoch",
                spec=charts.curves(list(rows_of(shown[["trial_id", "epoch", "score", "train_loss"]].round(5)))),
                table=table_of(
                    f"The last epoch of each trial: {words}",
                    shown.sort_values("epoch").drop_duplicates("trial_id", keep="last"),
                    {
                        "trial_id": Column(heading="Trial"),
                        "epoch": Column(heading="Epochs", kind="count"),
                        "train_loss": Column(heading="Training loss", kind="number"),
                        "validation_loss": Column(heading="Validation loss", kind="number"),
                        "score": Column(heading="Score", kind="accuracy"),
                    },
                ),
            )
        )
    return Section(
        name="curves",
        title=title,
        see="A curve that still rises at its end would gain from more epochs. The score of backbones is the accuracy "
        "of the classifier; that of exit heads is the mean accuracy over the exits. Selected points do not "
        "filter the plots of training: those show networks, which all points share.",
        figures=figures,
        lacks=lacks,
    )


def trial_section(source: Source) -> Section:
    """The trials of phase 1: settings against score, and a table."""
    trials = source.table("trials")
    title = "Trials of training"
    if trials.empty:
        return Section(name="trials", title=title, lacks=["No stage of training is finished yet."])
    figures, lacks = [], []
    for phase, words in _PHASES.items():
        own = trials[trials["phase"] == phase]
        varied = _varied(own)
        if len(own) < 2 or varied.empty:
            lacks.append(f"Parallel coordinates of {words} need two trials with different settings.")
            continue
        wide = varied.assign(score=own["score"].to_numpy(), trial_id=own["trial_id"].to_numpy())
        figures.append(
            Figure(
                name=f"parallel_{phase}",
                title=f"Settings of {words} and their score; a line is a trial",
                spec=charts.parallel(*_axes(wide.dropna(subset="score"))),
                table=table_of(
                    f"Settings that vary between {words}",
                    wide,
                    {
                        "trial_id": Column(heading="Trial"),
                        **{str(name): Column(heading=_plain(str(name)), kind=_kind(varied[name])) for name in varied},
                        "score": Column(heading="Score", kind="accuracy"),
                    },
                ),
            )
        )
    names = {"backbone": "Backbone", "head": "Head", "mode": "Mode", "status": "Status", "error": "Error"}
    table = table_of(
        "All trials",
        trials.sort_values(["phase", "score"], ascending=[True, False]),
        {
            "trial_id": Column(heading="Trial"),
            "phase": Column(heading="Phase"),
            "status": Column(heading="Status"),
            "backbone": Column(heading=names["backbone"]),
            "width": Column(heading="Width", kind="number", help="Factor on the number of channels."),
            "head": Column(heading="Head"),
            "epochs_done": Column(heading="Epochs", kind="count"),
            "score": Column(heading="Score", kind="accuracy"),
            "seconds": Column(heading="Time", kind="number", unit="s"),
            "error": Column(heading="Error"),
        },
    )
    return Section(
        name="trials",
        title=title,
        see="Lines that end high show which settings trained well.",
        figures=figures,
        tables=[table],
        lacks=lacks,
    )


def _varied(trials: pd.DataFrame) -> pd.DataFrame:
    """The settings that differ between trials, one column each, in the order of the trials."""
    found = []
    for text in trials["settings"]:
        settings = json.loads(text) if isinstance(text, str) else {}
        found.append({name: value for part in ("network", "training") for name, value in _flat(settings.get(part, {}))})
    frame = pd.DataFrame(found)
    frame = frame.drop(columns="seed", errors="ignore")
    varied = [name for name in frame if len(frame[name].astype(str).unique()) > 1]
    return frame[varied[:_MOST_AXES]]


def _flat(settings: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(settings, Mapping):
        return []
    found: list[tuple[str, Any]] = []
    for name, value in settings.items():
        found += _flat(value, f"{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
    return found


def _plain(name: str) -> str:
    return name.rpartition(".")[2].replace("_", " ")


def _kind(column: pd.Series) -> Any:
    return "number" if pd.api.types.is_numeric_dtype(column) and column.dtype != bool else "text"


def _axes(wide: pd.DataFrame) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of a chart of parallel coordinates (trial, axis, place from 0 to 1, value), and the ends of its axes."""
    rows: list[dict[str, Any]] = []
    ends: list[dict[str, Any]] = []
    for name in (one for one in wide if one != "trial_id"):
        column, label = wide[name], "score" if name == "score" else _plain(str(name))
        numbers = _kind(column) == "number"
        values = column.to_numpy(dtype=np.float64) if numbers else pd.factorize(column.astype(str), sort=True)[0]
        values = np.asarray(values, dtype=np.float64)
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        places = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
        texts = [four_digits(float(one)) if numbers else str(one) for one in column]
        for trial, place, text, score in zip(wide["trial_id"], places, texts, wide["score"], strict=True):
            row = {"trial": trial, "axis": label, "place": round(float(place), 4), "value": text}
            rows.append({**row, "score": round(float(score), 5)})
        first, last = int(np.nanargmin(values)), int(np.nanargmax(values))
        ends += [{"axis": label, "place": 0, "text": texts[first]}, {"axis": label, "place": 1, "text": texts[last]}]
    return [row for row in rows if np.isfinite(row["place"])], ends
