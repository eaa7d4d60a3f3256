"""Sections on the networks: how good each exit is, where images stop, what the engine predicts, what parts cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from results.parts import rows_of
from study.report import charts, point_charts
from study.report.blocks import Column, Figure, Section, Table, table_of
from study.report.source import EXPECTED, Source
from study.report.wording import GLOSSARY, unit_of

if TYPE_CHECKING:
    from study.policies.criteria import Criterion
    from study.search.traced_network import TracedNetwork

_CRITERIA: Mapping[Criterion, str] = {
    "margin": "margin of probabilities",
    "max_softmax": "largest probability",
    "logit": "logit over threshold",
}
"""The confidences whose ranking is drawn."""


def exit_section(source: Source) -> Section:
    """Accuracy and ranking of each exit; fp32 against int8."""
    exits = source.table("exits")
    own = exits[exits["point"].isna() & (exits["split"] == "validation")]
    own = own.drop_duplicates(["trial_id", "precision", "exit"])
    if own.empty:
        return Section(name="exits", title="Each exit", lacks=["The study has not evaluated its exits yet."])
    pairs = zip(own["trial_id"], own["precision"], strict=True)
    shown = own.assign(network=[source.network(*one) for one in pairs])
    last = int(own["exit"].max())
    figures = [
        Figure(
            name="exit_accuracy",
            title="Accuracy of each exit on all validation images",
            spec=charts.exit_accuracy(_rows(shown, "network", "exit", "accuracy_all")),
            table=_by_exit("Accuracy of each exit", shown, "accuracy_all", "accuracy"),
        )
    ]
    lacks: list[str] = []
    if isinstance(source.networks, str):
        lacks.append(f"How well the confidence of each exit ranks images needs traces. {source.networks}")
    else:
        network = _network_of_interest(source, source.networks)
        ranking = _ranking(network)
        name = source.network(network.trial_id, network.precision)
        figures.append(
            Figure(
                name="auroc",
                title=f"How well the confidence of each exit ranks images (AUROC): {name}",
                spec=charts.ranking(_rows(ranking, "criterion", "exit", "auroc")),
                table=table_of(
                    f"How well the confidence of each exit of {name} ranks images",
                    ranking,
                    {
                        "exit": Column(heading="Exit", kind="count", help=GLOSSARY["exit"]),
                        "criterion": Column(heading="Confidence"),
                        "auroc": Column(heading="AUROC", kind="share", help=GLOSSARY["AUROC"]),
                    },
                ),
            )
        )
    if own["precision"].nunique() < 2:
        lacks.append("The study has one precision: there is no int8 to hold against fp32.")
    return Section(
        name="exits",
        title="Each exit: accuracy, ranking, fp32 against int8",
        see=f"An exit pays where its accuracy comes near that of the classifier (number {last}) and its confidence "
        "ranks images well.",
        figures=figures,
        lacks=lacks,
    )


def _network_of_interest(source: Source, networks: Sequence[TracedNetwork]) -> TracedNetwork:
    """The network of the recommended point; the first one where nothing is recommended."""
    if source.summary is None:
        return networks[0]
    best = source.summary.recommended
    wanted = best["trial_id"], best["precision"]
    return next((one for one in networks if (one.trial_id, one.precision) == wanted), networks[0])


def _ranking(network: TracedNetwork) -> pd.DataFrame:
    """How well the confidences of a network rank images: columns exit, criterion, auroc."""
    from study.fronts.ranking import auroc, should_stop
    from study.policies.decision_table import table_for
    from study.policies.policies import Hierarchical

    trace = network.trace(None)
    positive = should_stop(trace)
    parts = []
    for criterion, words in _CRITERIA.items():
        scores = table_for(trace, Hierarchical(1.0, 1, criterion)).stop
        own = pd.DataFrame({"exit": np.arange(1, network.exit_count + 1), "auroc": auroc(scores, positive)})
        parts.append(own.assign(criterion=words))
    return pd.concat(parts, ignore_index=True).dropna(subset="auroc")


def stop_section(source: Source, columns: dict[str, Any] | None) -> Section:
    """Where the images of the points of the front stop."""
    title = "Where images stop"
    if columns is None or not any(one is not None for one in columns["stops"]):
        lack = "The study has no statistics of each layer yet: they are written with the front."
        return Section(name="stops", title=title, lacks=[lack])
    last = max(len(one) for one in columns["stops"] if one is not None)
    return Section(
        name="stops",
        title=title,
        see="Cheap settings stop images at early exits. The bars are of the point that you fixed, at first the "
        "recommended one; the map has the points of the front from cheap (top) to dear.",
        figures=[
            Figure(
                name="stops",
                title="Share of the test images that stop at each exit, for the fixed point",
                spec=point_charts.stops(last),
                linked=True,
            ),
            Figure(
                name="stop_map",
                title="Share of the test images that stop at each exit, for points of the front",
                spec=point_charts.stop_map(last),
                linked=True,
            ),
        ],
    )


def engine_section(source: Source) -> Section:
    """The exit that the engine predicts against the exit at which an image would stop."""
    title, name = "Predicted against true exit", "engine"
    front = source.table("front")
    predictive = front[front["policy"] == "predictive"] if len(front) else front
    if isinstance(source.networks, str):
        return Section(name=name, title=title, lacks=[f"This needs traces. {source.networks}"])
    if predictive.empty:
        lack = "No point of the front uses the prediction engine (policy predictive)."
        return Section(name=name, title=title, lacks=[lack])
    from study.fronts.engine_accuracy import prediction_confusion
    from study.search.traced_network import find_network

    accuracy = predictive["accuracy"].to_numpy(dtype=np.float64)
    near = accuracy >= predictive["classic_accuracy"].to_numpy(dtype=np.float64) - 0.01
    costs = np.where(near, predictive["flops"].to_numpy(dtype=np.float64), np.inf)
    place = int(costs.argmin() if near.any() else accuracy.argmax())
    chosen = [*rows_of(predictive)][place]
    network = find_network(source.networks, chosen["trial_id"], chosen["precision"])
    jump, start = int(chosen["max_jump"]), int(chosen["start_layer"])
    confusion = prediction_confusion(network.trace(chosen["statistic"]), chosen["beta"], start, jump)
    total = int(confusion.sum())
    if total == 0:
        lack = f"At point {chosen['number']} every image stops at exit {start}: the engine predicts nothing."
        return Section(name=name, title=title, lacks=[lack])
    names = [f"{one}{' or more' if one == jump else ''}" for one in range(1, jump + 1)]
    rows = [
        {"predicted": names[i], "true": names[j], "images": int(confusion[i, j]), "share": confusion[i, j] / total}
        for i in range(jump)
        for j in range(jump)
    ]
    right, short = np.trace(confusion) / total, np.triu(confusion, 1).sum() / total
    return Section(
        name=name,
        title=title,
        see=f"For point {chosen['number']} (beta {chosen['beta']:.4g}, from exit {start}) the engine is right for "
        f"{right * 100:.1f} % of {total} validation images that do not stop at once; it predicts too short a jump for "
        f"{short * 100:.1f} % and too long a jump for {(1 - right - short) * 100:.1f} %.",
        figures=[
            Figure(
                name="engine",
                title="Predicted and true number of exits until an image stops",
                spec=charts.confusion(rows, names),
                table=Table(
                    title="Images by predicted (rows) and true (columns) number of exits",
                    columns=[Column(heading="Predicted"), *(Column(heading=one, kind="count") for one in names)],
                    rows=[[one, *confusion[i].tolist()] for i, one in enumerate(names)],
                ),
            )
        ],
    )


def cost_section(source: Source) -> Section:
    """What each segment and each head costs."""
    costs = source.table("costs")
    title = "What each part costs"
    own = costs[costs["part"].isin(["segment", "head"])]
    if own.empty:
        lack = "The study has not written the costs of its parts yet."
        return Section(name="costs", title=title, lacks=[lack])
    front = source.table("front")
    key = ["trial_id", "precision"]
    best = own[key].iloc[0] if source.summary is None else source.summary.recommended[key]
    one = own[(own["trial_id"] == best["trial_id"]) & (own["precision"] == best["precision"])]
    one = own if one.empty else one
    figures, heads = [], float(one.loc[one["part"] == "head", "flops"].sum() / one["flops"].sum())
    paid = (
        f"Heads together cost {heads * 100:.1f} % of all FLOPs here; an image pays the segments up to its exit and the "
        "heads that it tried."
    )
    if not heads:
        paid = (
            "The exits are a cascade: a segment holds the cost of its head. An image pays the segments up to its exit."
        )
    measures = {"flops": ("flops", "FLOPs"), "energy_joules": ("energy", "Energy"), "seconds": ("latency", "Time")}
    for column, (cost, name) in measures.items():
        if one[column].isna().all():
            continue
        unit = unit_of(cost, float(one[column].max()))
        shown = one.assign(value=one[column] / unit.size)
        figures.append(
            Figure(
                name=f"cost_{cost}",
                title=f"{name} of each segment and exit head, per image",
                spec=charts.part_costs(_rows(shown, "part", "number", "value"), f"{name}, {unit.name}"),
                table=table_of(
                    f"{name} of each part",
                    shown,
                    {
                        "part": Column(heading="Part"),
                        "number": Column(heading="Number", kind="count"),
                        "value": Column(heading=f"{name}, {unit.name}", kind="number"),
                    },
                ),
            )
        )
    other = "" if front.empty else " This is the network of the recommended point."
    return Section(
        name="costs",
        title=title,
        see=paid + other,
        figures=figures,
    )


def guarded(name: str, title: str, source: Source, tables: Sequence[str], build: Any, *arguments: Any) -> Section:
    """A section; where a table that it reads is damaged, a section that says so.

    Args:
        name, title: of a section that cannot be built.
        source, arguments: of ``build``, which makes the section.
        tables: that the section reads.
    """
    damage = source.damage(tables)
    try:
        section: Section = build(source, *arguments)
    except EXPECTED as error:
        return Section(name=name, title=title, lacks=damage or [str(error)])
    if damage:  # what a section without figures says of an empty table is not the reason
        return replace(section, lacks=[*damage, *(section.lacks if section.figures else ())])
    return section


def _rows(frame: pd.DataFrame, *names: str) -> list[dict[str, Any]]:
    return list(rows_of(frame[list(names)].round(6)))


def _by_exit(title: str, frame: pd.DataFrame, value: str, kind: Any) -> Table:
    """One row an exit, one column a network."""
    wide = frame.pivot_table(index="exit", columns="network", values=value, aggfunc="first")
    names: Sequence[str] = list(map(str, wide.columns))
    rows = [[int(exit), *(None if np.isnan(one) else float(one) for one in own)] for exit, own in
            zip(wide.index, wide.to_numpy(dtype=np.float64), strict=True)]  # fmt: skip
    columns = [Column(heading="Exit", kind="count", help=GLOSSARY["exit"])]
    return Table(title=title, columns=[*columns, *(Column(heading=one, kind=kind) for one in names)], rows=rows)
