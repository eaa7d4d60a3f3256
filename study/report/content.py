"""What a page says of some studies. It is read from run folders; a part that is missing becomes a sentence."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results.parts import part_count
from results.schemas import SCHEMAS
from results.storage.paths import Location
from study.errors import UserError
from study.report.blocks import (
    Column,
    FirstScreen,
    Picture,
    ReportContent,
    Section,
    StudyContent,
    Table,
    table_of,
)
from study.report.first import first_screen
from study.report.front_chart import front_section
from study.report.networks import cost_section, engine_section, exit_section, guarded, stop_section
from study.report.phase_2 import importance_section, optimism_section, progress_section
from study.report.pictures import pictures_of
from study.report.points import point_columns
from study.report.source import EXPECTED, Source, sources_of
from study.report.together import together_section
from study.report.training import curve_section, trial_section
from study.report.wording import number_text
from study.run.folder import stored_study_file
from study.storage.versions import version_of


def report_content(folders: Sequence[Location], *, images: Path | None = None) -> ReportContent:
    """What the report of some run folders says.

    Args:
        folders: run folders, or packs.
        images: folder of data sets, where the page is to show some images; else None.

    Raises:
        UserError: a folder is no run folder, or a folder is named twice.
        SpecError: a study file is of no study.
    """
    if len({str(folder) for folder in folders}) < len(folders):
        raise UserError("report: a run folder is named twice")
    sources = [source for folder in folders for source in sources_of(folder)]
    return _report(
        [study_content(source, images=images) for source in sources],
        together_section(sources) if len(sources) > 1 else None,
    )


def front_content(folder: Location, data: str | None = None) -> ReportContent:
    """The part of a report that shows the front, alone.

    Args:
        folder: run folder, or a pack.
        data: the data set; None: every data set of the study.

    Raises:
        UserError: the folder is no run folder, or the study has no such data set.
    """
    sources = sources_of(folder)
    own = [source for source in sources if data in (None, source.data)]
    if not own:
        raise UserError(f"{folder} has no data set {data}: it has {', '.join(source.data for source in sources)}")
    studies = []
    for source in own:
        columns = point_columns(source)
        studies.append(_study(source, columns, [_front(source, columns)]))
    return _report(studies, None)


def _report(studies: Sequence[StudyContent], together: Section | None) -> ReportContent:
    names = list(dict.fromkeys(study.name for study in studies))
    now = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="minutes").removesuffix("+00:00")
    return ReportContent(
        title=" and ".join(names) if len(names) <= 3 else f"{len(names)} studies",
        made=f"made on {now} UTC by predictive-exit {version_of('predictive-exit')}",
        studies=studies,
        together=together,
    )


def study_content(source: Source, *, images: Path | None = None) -> StudyContent:
    """What the page says of one study on one data set."""
    first, missing = None, []
    if source.summary is not None:
        try:
            first = first_screen(source, source.summary)
        except EXPECTED as error:
            missing.append(str(error))
    columns = point_columns(source)
    sections = [
        _front(source, columns),
        guarded("exits", "Each exit", source, ("exits",), exit_section),
        guarded("stops", "Where images stop", source, _OF_POINTS, stop_section, columns),
        guarded("engine", "Predicted against true exit", source, ("front",), engine_section),
        guarded("costs", "What each part costs", source, ("costs",), cost_section),
        guarded("curves", "Learning curves", source, ("epochs", "trials"), curve_section),
        guarded("trials", "Trials of training", source, ("trials",), trial_section),
        guarded("importances", "Which parameters matter", source, ("operating_points",), importance_section),
        guarded("progress", "How the search went", source, ("operating_points",), progress_section),
        guarded("optimism", "Loss on validation against test", source, _OF_POINTS, optimism_section, columns),
    ]
    pictures = []
    if images is not None:
        try:
            pictures = pictures_of(source, images)
            sections.append(_gallery(len(pictures)))
        except EXPECTED as error:
            sections.append(Section(name="gallery", title="Images", lacks=[str(error)]))
    sections.append(guarded("provenance", "Where the numbers come from", source, ("provenance",), _provenance))
    return _study(source, columns, sections, first=first, missing=missing, pictures=pictures)


_OF_POINTS = ("operating_points", "front", "exits")
"""The tables of the points of the front."""


def _front(source: Source, columns: dict[str, Any] | None) -> Section:
    return guarded("front", "Accuracy against cost", source, _OF_POINTS, front_section, columns)


def _study(
    source: Source,
    columns: dict[str, Any] | None,
    sections: Sequence[Section],
    *,
    first: FirstScreen | None = None,
    missing: Sequence[str] = (),
    pictures: Sequence[Picture] = (),
) -> StudyContent:
    return StudyContent(
        name=source.spec.name,
        data=source.data,
        folder=str(source.folder),
        state=_state(source),
        evaluate=(source.command("evaluate", "--point", str(source.folder)), " ".join(["", *source.to_run_networks()])),
        lacks_weights="" if source.has_weights else "This copy has no weights: give the command where they are.",
        first=first,
        points=columns,
        sections=sections,
        missing=[*dict.fromkeys([*source.problems, *missing])],
        pictures=pictures,
    )


def _gallery(count: int) -> Section:
    return Section(
        name="gallery",
        title="Images that stop early and late",
        see=f"This file holds {count} images of the data set: share the file only where the licence of the images "
        "allows it. Early images look easy; late ones are hard, or are labelled wrongly.",
    )


def _state(source: Source) -> str:
    """What the study has so far, in a sentence."""
    if source.summary is not None and "operating_points" not in source.damaged:
        points, front = (number_text(len(one), "count") for one in (source.searched, source.table("front")))
        if source.is_exact and points == front:
            return f"exact front of {points} operating points"
        return f"{points} operating points, {front} of them on the front"
    if source.damaged:
        return f"The study is damaged: its table {', '.join(source.damaged)} cannot be read. What to do stands below."
    missing = [name for name in SCHEMAS if not _has(source, name)]
    trials = source.table("trials")
    if not missing:
        return "The study has all tables, but no front that can be read."
    done = f"{len(trials)} trials of training are in the tables" if len(trials) else "no stage of training is finished"
    return f"This study is not finished: {done}; it has no table {', '.join(missing)} yet."


def _has(source: Source, name: str) -> bool:
    try:
        return part_count(source.tables, name) > 0
    except EXPECTED:
        return False


def _provenance(source: Source) -> Section:
    """Code, versions, seeds, digests and hardware."""
    stored = stored_study_file(source.folder)
    made, digests = stored["provenance"], stored["provenance"].get("data_digest") or {}
    rows: list[list[Any]] = [
        ["Run folder", str(source.folder)],
        ["Created", made.get("created")],
        ["Seed", source.spec.seed],
        ["Data set", source.data],
        ["Digest of images and splits", digests.get(source.data)],
    ]
    rows += [["Extended", f"{one.get('on')}: {', '.join(one.get('changes', []))}"] for one in made.get("extended", [])]
    costs, trials = source.table("costs"), source.table("trials")
    sources = [("energy_source", "Source of energies"), ("seconds_source", "Source of times"), ("device", "Device")]
    rows += [[words, ", ".join(map(str, costs[name].dropna().unique())) or None] for name, words in sources]
    rows.append(["Trained on", ", ".join(map(str, trials["device"].dropna().unique())) or None])
    rows += [[f"Version of {name}", value] for name, value in (made.get("versions") or {}).items()]
    named = source.table("provenance")
    columns = {
        "provenance": Column(heading="Key", help="The column provenance of all other tables."),
        "code_version": Column(heading="Program"),
        "code_digest": Column(heading="Digest of its code"),
        "seed": Column(heading="Seed", kind="count"),
        "data_digest": Column(heading="Digest of the images"),
    }
    return Section(
        name="provenance",
        title="Where the numbers come from",
        see="The same code, versions, seed and images give the same numbers.",
        tables=[
            Table(
                title="The study",
                columns=[Column(heading="What"), Column(heading="Value")],
                rows=[[what, None if value is None else str(value)] for what, value in rows],
            ),
            table_of("What computed the rows of the tables", named, columns),
            Table(
                title="All settings of the study",
                columns=[Column(heading="Key"), Column(heading="Value")],
                rows=[[key, value] for key, value in _flat(source.spec.plain())],
            ),
        ],
    )


def _flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}.")
        elif value is not None:
            found.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)))
    return found
