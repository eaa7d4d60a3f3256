"""Sections on phase 2: importances, the progress of the search, and the loss on validation against that on test."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from results.pareto import non_dominated
from results.parts import rows_of
from study.report import charts, point_charts
from study.report.blocks import Column, Figure, Section, Table, table_of
from study.report.source import EXPECTED, Source
from study.report.wording import COSTS, GLOSSARY, number_text
from study.search.columns import COLUMNS

_FEWEST = 20
"""Trials that importances need."""
_MOST_CORNERS = 800
"""Corners of a line of the front chart: more cannot be seen."""
_MOST = 2000
"""Trials that importances are computed from: the first ones."""


def importance_section(source: Source) -> Section:
    """How much each parameter of the search explains."""
    title, name = "Which parameters matter", "importances"
    if source.is_exact:
        lack = "Importances need a search by Optuna; this study computed the exact front, where no parameter is drawn."
        return Section(name=name, title=title, lacks=[lack])
    points = source.table("operating_points")
    done = points[points["state"] == "COMPLETE"]
    done = done[done["search"] == done["search"].iloc[-1]].head(_MOST) if len(done) else done
    if len(done) < _FEWEST:
        lack = f"Importances need {_FEWEST} finished trials of phase 2; there are {len(done)}."
        return Section(name=name, title=title, lacks=[lack])
    objectives = source.spec.operating_points.objectives
    rows: list[dict[str, Any]] = []
    lacks: list[str] = []
    for objective in objectives:
        try:
            rows += [
                {"objective": _plain(objective), "parameter": parameter, "importance": round(float(value), 4)}
                for parameter, value in _importances(source, done, objective).items()
            ]
        except (ValueError, RuntimeError) as error:
            lacks.append(f"{_plain(objective)}: {error}")
    if not rows:
        return Section(name=name, title=title, lacks=lacks)
    frame = pd.DataFrame(rows)
    columns = {
        "objective": Column(heading="Objective"),
        "parameter": Column(heading="Parameter"),
        "importance": Column(heading="Importance", kind="share", help=GLOSSARY["importance"]),
    }
    return Section(
        name=name,
        title=title,
        see=f"The longest bar is the parameter to tune first (Optuna's PED-ANOVA over {len(done)} trials).",
        figures=[
            Figure(
                name="importances",
                title="Importance of each parameter for each objective",
                spec=charts.importances(rows),
                table=table_of("Importance of each parameter", frame, columns),
            )
        ],
        lacks=lacks,
    )


def _importances(source: Source, done: pd.DataFrame, objective: str) -> dict[str, float]:
    """Optuna's own evaluator for one objective."""
    import optuna
    from optuna.distributions import json_to_distribution
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if objective == "accuracy" else "minimize")
    for row in rows_of(done):
        distributions = {name: json_to_distribution(one) for name, one in json.loads(row["distributions"]).items()}
        value = row[COLUMNS[objective]]
        if value is None:
            continue
        study.add_trial(
            optuna.create_trial(params=json.loads(row["params"]), distributions=distributions, value=float(value))
        )
    return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(evaluate_on_local=False)))


def _plain(objective: str) -> str:
    names = {"accuracy": "Accuracy", "flops": "FLOPs", "energy": "Energy"}
    return names.get(objective, objective.replace("_", " "))


def progress_section(source: Source) -> Section:
    """The hypervolume over the trials of the search."""
    title, name = "How the search went", "progress"
    points = source.searched
    if points.empty:
        return Section(name=name, title=title, lacks=["The study has no operating points yet."])
    if source.is_exact:
        lack = "This study computed the exact front: no search went on, so there is no hypervolume over trials."
        return Section(name=name, title=title, lacks=[lack])
    column = "hypervolume_ratio" if points["hypervolume_ratio"].notna().any() else "hypervolume"
    known = points.dropna(subset=column).sort_values("number")
    # Where the curve rises, and the end of each search: a curve that is flat at its end must look so.
    own = pd.concat([known.drop_duplicates(["search", column]), known.drop_duplicates("search", keep="last")])
    own = own.drop_duplicates(["search", "number"]).sort_values("number")
    words = "Share of the exact front's hypervolume" if column == "hypervolume_ratio" else "Hypervolume"
    rows = [{"trial": int(row["number"]) + 1, "value": row[column], "search": row["search"]} for row in rows_of(own)]
    last = float(own[column].iloc[-1])
    return Section(
        name=name,
        title=title,
        see=f"A curve that is flat at its end has found what its sampler can find; it ends at {last:.4g}.",
        figures=[
            Figure(
                name="progress",
                title=f"{words} over the trials of phase 2",
                spec=charts.progress(rows, words),
                table=Table(
                    title=words,
                    columns=[
                        Column(heading="Trials", kind="count"),
                        Column(heading=words, kind="number", help=GLOSSARY["hypervolume"]),
                    ],
                    rows=[[row["trial"], row["value"]] for row in rows],
                ),
            )
        ],
    )


def optimism_section(source: Source, columns: dict[str, Any] | None) -> Section:
    """The loss of the points of the front on validation against that on test."""
    title, name = "Loss on validation against test", "optimism"
    summary = source.summary
    if summary is None or columns is None:
        return Section(name=name, title=title, lacks=["The study has no front yet."])
    return Section(
        name=name,
        title=title,
        see="Points above the line lose more on test than on the validation images that chose them; on average their "
        f"accuracy changes by {number_text(-summary.mean_optimism, 'points')} points from validation to test, that of "
        f"their classic networks by {number_text(-summary.classic_optimism, 'points')}.",
        figures=[
            Figure(
                name="optimism",
                title="Points lost against the classic network, on validation and on test",
                spec=point_charts.optimism(columns["series"]),
                linked=True,
            )
        ],
    )


def front_lines(source: Source, costs: list[str]) -> tuple[list[dict[str, Any]], str]:
    """The lines of the front chart, and a sentence on the exact front.

    A row is a corner of a line: ``cost`` (which axis), ``line``, ``x`` in base units and ``accuracy``.
    """
    front = source.table("front")
    rows: list[dict[str, Any]] = []
    own = "exact front" if source.is_exact else "front of the search"
    names = {cost: "" if is_objective(source, cost) else ", found for other objectives" for cost in costs}
    found = front if len(front) else source.searched[source.searched["feasible"].eq(True)]
    for cost in costs:
        rows += _line(found, cost, own + names[cost])
    if source.is_exact or found.empty:
        return rows, "The study computed the exact front." if source.is_exact else ""
    exact = exact_points_of(source)
    if isinstance(exact, str):
        return rows, f"The exact front is not drawn: {exact}"
    for cost in costs:
        rows += _line(exact, cost, "exact front" + names[cost])
    return rows, "The exact front of the same space is drawn beside the front that the search found."


def is_objective(source: Source, cost: str) -> bool:
    """Whether the study searched for a low cost of this kind."""
    return any(one == cost or one.startswith(f"{cost}_") for one in source.spec.operating_points.objectives)


def exact_points_of(source: Source) -> pd.DataFrame | str:
    """The exact front of the study's own space from the stored traces, or why there is none."""
    if isinstance(source.networks, str):
        return source.networks
    from study.search.exact_report import exact_report
    from study.search.exact_search import uncovered

    space = source.spec.operating_points
    reason = uncovered(space)
    if reason:
        return f"{reason}."
    try:
        return exact_report(space, source.networks, pd.DataFrame()).points
    except EXPECTED as error:
        return str(error)


def _line(points: pd.DataFrame, cost: str, name: str) -> list[dict[str, Any]]:
    """The corners of the line through the points that are not dominated in accuracy and one cost."""
    column = COSTS[cost][1]
    values = points[[column, "accuracy"]].to_numpy(dtype=np.float64)
    best = values[non_dominated(values, maximize=[False, True])]
    best = best[np.lexsort((best[:, 1], best[:, 0]))]
    best = best[np.unique(np.linspace(0, len(best) - 1, _MOST_CORNERS).astype(np.int64))] if len(best) else best
    return [{"cost": cost, "line": name, "x": float(f"{x:.6g}"), "accuracy": float(f"{y:.6g}")} for x, y in best]
