"""The section that users look at most: accuracy against costs, with constraints."""

from __future__ import annotations

from typing import Any

from results.parts import rows_of
from study.report import point_charts
from study.report.blocks import Figure, Section
from study.report.phase_2 import front_lines, is_objective
from study.report.source import Source
from study.report.wording import CONSTRAINTS, COSTS, Unit, number_text, share_text, unit_of

_CLASSIC = {"flops": "classic_flops", "energy": "classic_energy_joules", "latency": "classic_latency_seconds"}
_CUT = {"flops": "cumulative_flops", "energy": "cumulative_energy_joules", "latency": "cumulative_seconds"}
_LIMIT = {"energy": "energy", "latency": "latency_mean"}
"""Constraints that are a line across an axis of costs. The others have no axis."""
TOLERANCE = 0.01
_BELOW = 0.05
"""Accuracy below the classic network, as a share, down to which the axis goes at first."""


def front_section(source: Source, columns: dict[str, Any] | None) -> Section:
    """The front over each cost that the study knows; adds to ``columns`` what the page needs to fill the charts."""
    title = "Accuracy against cost"
    if columns is None:
        return Section(name="front", title=title, lacks=["The study has no operating points yet."])
    costs = [name for name in COSTS if name in columns]
    reference = _reference(source)
    policies = columns["series"]
    lines, sentence = front_lines(source, costs)
    figures, axes = [], {}
    for cost in costs:
        classic = _classic_cost(source, cost)
        unit = unit_of(cost, classic)
        marks = _marks(source, cost, unit, reference)
        own = [one for one in lines if one["cost"] == cost]
        name = f"{COSTS[cost][0]} per image, {unit.name}" + _where_from(source, cost)
        figures.append(
            Figure(
                name=f"front_{cost}",
                title=f"Accuracy on validation images against {COSTS[cost][0]}",
                spec=point_charts.front(name, unit.size, policies, marks, own),
                linked=True,
            )
        )
        axes[cost] = {
            "title": name,
            "size": unit.size,
            "unit": unit.name,
            "classic": classic / unit.size,
            "bounds": _bounds(source, cost, unit, reference),
        }
    columns |= {"axes": axes, "reference": reference, "low": max(0.0, reference - _BELOW)}
    columns["limits"] = _limits(source)
    hidden = columns["all"] - columns["shown"]
    notes = [sentence] if sentence else []
    notes += [
        f"{COSTS[cost][0]} was no objective of this study: settings that are not here may need less of it."
        for cost in costs
        if not is_objective(source, cost)
    ]
    if hidden:
        every = source.command("front", str(source.folder), "--output", "front.csv", *source.of_data())
        notes.append(
            f"{number_text(columns['shown'], 'count')} of {number_text(columns['all'], 'count')} points are in this "
            "page. Of points that a plot could not tell apart one is drawn, and a long front is thinned evenly; lines "
            f"and recommendation use all points. `{every}` writes the whole front."
        )
    return Section(
        name="front",
        title=title,
        see="Good settings lie above and to the left. The line joins the settings of the front that no other one of it "
        "beats; the star is the classic network.",
        figures=figures,
        lacks=notes,
    )


def _reference(source: Source) -> float:
    """Accuracy on validation that losses count from."""
    if source.summary is not None:
        return source.summary.reference.accuracy
    return float(source.searched["classic_accuracy"].max())


def _classic_cost(source: Source, cost: str) -> float:
    """What the classic network costs."""
    if source.summary is None:
        return float(source.searched[_CLASSIC[cost]].max())
    names = {"flops": "flops", "energy": "energy_joules", "latency": "latency_seconds"}
    return float(getattr(source.summary.reference, names[cost]))


def _where_from(source: Source, cost: str) -> str:
    if source.summary is None or cost == "flops":
        return ""
    found = source.summary.energy_source if cost == "energy" else source.summary.latency_source
    return f" ({found})" if found else ""


def _marks(source: Source, cost: str, unit: Unit, reference: float) -> list[dict[str, Any]]:
    """The classic network and the cuts of the network of the recommended point, as points of the chart."""
    classic = _classic_cost(source, cost) / unit.size
    marks = [{"name": "classic network", "label": "classic network", "x": classic, "accuracy": reference}]
    exits = source.table("exits")
    cuts = exits[exits["point"].isna() & (exits["split"] == "validation") & exits[_CUT[cost]].notna()]
    cuts = cuts.drop_duplicates(["trial_id", "precision", "exit"])
    if source.summary is not None:
        cuts = cuts[cuts["trial_id"] == source.summary.recommended["trial_id"]]
    for row in rows_of(cuts):
        if row["exit"] == cuts["exit"].max():
            continue
        marks.append(
            {
                "name": "plain cut",
                "label": f"cut at exit {row['exit']}, {row['precision']}",
                "x": float(f"{row[_CUT[cost]] / unit.size:.6g}"),
                "accuracy": float(f"{row['accuracy_all']:.6g}"),
            }
        )
    return marks


def _limits(source: Source) -> list[str]:
    """The constraints of the study in words, one each."""
    texts = []
    for name, limit in source.spec.operating_points.constraints.limits.items():
        if name == "accuracy_drop":
            text = f"at most {limit * 100:g} point{'' if limit == 0.01 else 's'}"
        elif name == "memory":
            text = f"at most {limit / 1e6:.4g} MB"
        else:
            text = f"at most {unit_of(name.partition('_')[0], limit).text(limit)}"
        texts.append(f"{CONSTRAINTS[name]} {text}")
    return texts


def _bounds(source: Source, cost: str, unit: Unit, reference: float) -> list[dict[str, Any]]:
    """What is shaded: the accuracies and costs that break a constraint of the study, or lose more than a point."""
    limits = source.spec.operating_points.constraints.limits
    drop = limits.get("accuracy_drop")
    if drop is None:
        label = f"more than {TOLERANCE * 100:g} point lost"
        bounds = [{"axis": "accuracy", "value": reference - TOLERANCE, "label": label}]
    else:
        label = f"constraint of the study: more than {drop * 100:g} point{'' if drop == 0.01 else 's'} lost"
        bounds = [{"axis": "accuracy", "value": reference - drop, "label": label}]
    classic = _classic_cost(source, cost)
    label = f"classic network: {share_text(reference)}, {unit.text(classic)}"
    short = f"classic network: {share_text(reference)}"
    bounds.append({"axis": "classic", "value": reference, "label": label, "short": short})
    limit = limits.get(_LIMIT.get(cost, ""))
    if limit is not None:
        label = f"constraint of the study: above {unit.text(limit)}"
        bounds.append({"axis": "cost", "value": limit / unit.size, "label": label})
    return bounds
