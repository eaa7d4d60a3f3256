"""The first screen: the setting to take, what it costs, how sure that is, and the commands that go with it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.intervals import wilson_interval
from results.parts import rows_of
from results.point_text import policy_text
from results.summary import FrontSummary, balanced_says_more
from study.report.blocks import Column, Command, FirstScreen, Table
from study.report.source import EXPECTED, Source
from study.report.wording import (
    COSTS,
    GLOSSARY,
    POLICIES,
    SETTINGS,
    four_digits,
    interval_text,
    number_text,
    share_text,
    unit_of,
)
from study.run.folder import STUDY_FILE
from study.run.stored_front import code_option
from study.search.smaller import beaten_by, smaller_rows, smaller_sentence

_REFERENCE = {"flops": "flops", "energy": "energy_joules", "latency": "latency_seconds"}
_CLASSIC = {"flops": "classic_flops", "energy": "classic_energy_joules", "latency": "classic_latency_seconds"}
_CUT = {"flops": "cumulative_flops", "energy": "cumulative_energy_joules", "latency": "cumulative_seconds"}


def known_costs(summary: FrontSummary) -> list[str]:
    """The costs that a study knows."""
    known = {"flops": True, "energy": summary.energy_source is not None, "latency": summary.latency_source is not None}
    return [name for name, is_known in known.items() if is_known]


def first_screen(source: Source, summary: FrontSummary) -> FirstScreen:
    """What the page says first of a study that has a front."""
    row = next(iter(rows_of(summary.recommended.to_frame().T)))
    smaller, notes = _smaller(source, summary)
    policy = POLICIES.get(row["policy"])
    return FirstScreen(
        number=int(row["number"]),
        policy=policy_text(row) + (f": {policy}" if policy else ""),
        setting=[(words, text) for name, words in SETTINGS.items() if (text := _value(row.get(name)))],
        network=f"{source.names.get(row['trial_id'], 'network')} (trial {row['trial_id']}), {row['precision']}",
        facts=_facts(summary, row),
        why=" ".join([f"It is {summary.reason.partition(';')[0]}.", *_rival_cuts(source, summary, row)]),
        certified=row["certified_drop"] is not None,
        certainty=_certainty(source, row),
        beside=_beside(source, summary, row, smaller),
        commands=_commands(source, row),
        notes=notes,
    )


def _value(value: object) -> str:
    """A setting as text; nothing where the policy has no such setting."""
    if value is None or (isinstance(value, str) and value == "none"):
        return ""
    if isinstance(value, float):
        return four_digits(value)
    return " ".join(str(int(one)) for one in value) if isinstance(value, np.ndarray | list) else str(value)


def _facts(summary: FrontSummary, row: dict[str, Any]) -> list[tuple[str, str, str]]:
    low, high = row["test_accuracy_low"], row["test_accuracy_high"]
    lost = row["test_accuracy_drop"] * 100
    facts = [
        (
            "Accuracy on test images",
            f"{row['test_accuracy'] * 100:.2f} %",
            f"95 % interval {interval_text(low, high)}; {abs(lost):.2f} points {'less' if lost >= 0 else 'more'} than "
            f"the same network without exits{_balanced_words(row)}",
        )
    ]
    sources = {"flops": "counted", "energy": summary.energy_source, "latency": summary.latency_source}
    for cost in known_costs(summary):
        name, column = COSTS[cost]
        unit = unit_of(cost, getattr(summary.reference, _REFERENCE[cost]))
        facts.append(
            (
                f"{name} per image",
                share_text(row[f"{cost}_share"]),
                f"of the classic network: {unit.text(row[column])} instead of "
                f"{unit.text(getattr(summary.reference, _REFERENCE[cost]))}, mean over the validation images; "
                + _source_words(sources[cost], summary.device),
            )
        )
    if "latency" not in known_costs(summary):
        facts.append(("Latency", "not known", "the costs of this study hold no times: its device table has none"))
    return facts


def _balanced_words(row: dict[str, Any]) -> str:
    """The balanced accuracy, where classes are so uneven that it says something else than the accuracy."""
    found = row.get("test_balanced_accuracy")
    if found is None or not balanced_says_more(row["test_accuracy"], found):
        return ""
    return f"; balanced accuracy, the mean over the classes: {found * 100:.2f} %"


_IN = {"flops": "FLOPs", "energy": "energy", "latency": "time"}
_NEARLY = 1.25
"""A plain cut that costs at most so many times as much as the recommended point is named on the first screen."""


def _rival_cuts(source: Source, summary: FrontSummary, row: dict[str, Any]) -> list[str]:
    """Sentences on plain cuts that are nearly as cheap as the recommended point, and as accurate as is asked for."""
    exits = source.table("exits")
    cuts = exits[exits["point"].isna() & (exits["split"] == "validation")]
    cuts = cuts[cuts["exit"] < cuts["exit"].max()]
    cuts = cuts[cuts["accuracy_all"] >= summary.reference.accuracy - summary.tolerance - 1e-12]
    named: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for cost in known_costs(summary):
        own = cuts.dropna(subset=_CUT[cost])
        if row["policy"] == "static" or own.empty:
            continue
        best = own.loc[own[_CUT[cost]].idxmin()]
        whole = getattr(summary.reference, _REFERENCE[cost])
        share = float(best[_CUT[cost]]) / whole
        if share <= _NEARLY * row[f"{cost}_share"]:
            unit, cut = unit_of(cost, whole), f"a plain cut at exit {best['exit']} ({best['precision']}), right on "
            cut += f"{share_text(best['accuracy_all'])} of the validation images"
            needs = f"{unit.text(share * whole)} instead of {unit.text(row[COSTS[cost][1]])}"
            named.setdefault((cut, int(share <= row[f"{cost}_share"])), []).append((_IN[cost], needs))
    return [
        f"{'At least' if cheaper else 'Nearly'} as cheap in {' and '.join(one for one, _ in needs)} is {cut}: it needs "
        f"{' and '.join(one for _, one in needs)}."
        for (cut, cheaper), needs in named.items()
    ]


def _source_words(source: str | None, device: str | None) -> str:
    if source is None or source == "counted":
        return "counted"
    kind, _, table = source.partition(":")
    if kind == "modelled":
        return f"modelled from the device table {table}, not measured"
    return f"measured ({source}{f' on {device}' if device else ''})"


def _certainty(source: Source, row: dict[str, Any]) -> str:
    if row["certified_drop"] is not None:
        lost = row["certified_drop"] * 100
        return (
            f"Certified: with {row['certified_confidence'] * 100:g} % confidence this setting loses at most {lost:g} "
            f"point{'' if lost == 1 else 's'} on new images of the same kind, tested on {row['certified_samples']:.0f} "
            "images that no choice has seen."
        )
    why = "no point passed the test of the guarantee" if source.spec.guarantee else "the study asked for no guarantee"
    tested = number_text(row["test_samples"], "count")
    return (
        f"Not certified ({why}). Validation images chose this setting; {tested} test images measured "
        "its accuracy, and the interval says how exact that is. Nothing is promised of its loss on new images."
    )


def _smaller(source: Source, summary: FrontSummary) -> tuple[dict[str, Any] | None, list[str]]:
    """The smaller network to hold against the recommended point, and sentences about it."""
    reference, point = summary.reference, summary.recommended
    none = "This study trained no smaller network to compare with."
    trials = source.table("trials")
    if damage := source.damage(["trials"]):
        return None, damage
    trained = trials[(trials["phase"] == "backbones") & trials["classifier_accuracy"].notna()]
    if len(trained[["backbone", "width"]].drop_duplicates()) < 2:
        return None, [none]
    from study.run.backbones import stored_backbones

    try:
        backbones = stored_backbones(source.folder, source.spec.operating_points, source.data)
    except EXPECTED as error:
        return None, [f"Smaller networks: {error}"]
    costs = {"flops": reference.flops}
    if summary.energy_source is not None:
        costs["energy"] = reference.energy_joules
    rows = smaller_rows(reference.trial_id, reference.accuracy, costs, backbones)
    if rows.empty:
        return None, [none]
    rival = beaten_by(point["accuracy"], point["flops_share"], rows)
    notes = []
    if rival is not None:
        line = smaller_sentence(f"Point {point['number']}", point["flops_share"], point["accuracy"], rival)
        notes.append(f"{line}.")
    near = rows[rows["accuracy"] >= reference.accuracy - summary.tolerance - 1e-12]
    best = rival or next(iter(rows_of(near if len(near) else rows.nlargest(1, "accuracy"))))
    return dict(best), notes


def _beside(source: Source, summary: FrontSummary, row: dict[str, Any], smaller: dict[str, Any] | None) -> Table:
    """The recommended point beside the classic network, the plain cut and a smaller network."""
    costs, reference = known_costs(summary), summary.reference
    units = {cost: unit_of(cost, getattr(reference, _REFERENCE[cost])) for cost in costs}
    columns = [
        Column(heading="Setting"),
        Column(heading="Test accuracy", kind="accuracy", help=GLOSSARY["test"]),
        Column(heading="95 % interval", help=GLOSSARY["95 % interval"]),
        Column(heading="Validation accuracy", kind="accuracy", help=GLOSSARY["validation"]),
    ]
    for cost in costs:
        columns += [
            Column(heading=f"{COSTS[cost][0]}, {units[cost].name}", kind="number", help=GLOSSARY[COSTS[cost][0]]),
            Column(heading="of classic", kind="share", help="Share of the cost of the classic network."),
        ]

    def cells(name: str, test: float | None, validation: float, values: dict[str, float | None]) -> list[Any]:
        interval = None if test is None else interval_text(*wilson_interval(test, int(row["test_samples"])))
        if test == row["test_accuracy"]:
            interval = interval_text(row["test_accuracy_low"], row["test_accuracy_high"])
        found: list[Any] = [name, test, interval, validation]
        for cost in costs:
            value, whole = values.get(cost), getattr(reference, _REFERENCE[cost])
            found += [None, None] if value is None else [value / units[cost].size, value / whole]
        return found

    classic = classic_on_test(summary)
    rows = [
        cells(f"Recommended: point {row['number']}", row["test_accuracy"], row["accuracy"], _costs_of(row, costs)),
        cells(
            f"Classic network ({reference.precision})",
            classic,
            reference.accuracy,
            {cost: getattr(reference, _REFERENCE[cost]) for cost in costs},
        ),
    ]
    if (row["trial_id"], row["precision"]) != (reference.trial_id, reference.precision):
        name = f"The point's network without exits ({row['precision']})"
        own: dict[str, float | None] = {cost: row[_CLASSIC[cost]] for cost in costs}
        rows.append(cells(name, row["test_classic_accuracy"], row["classic_accuracy"], own))
    cut = summary.best_static
    if cut is not None:
        name = f"Plain cut at exit {cut['exit']} ({cut['precision']})"
        own = {cost: float(cut[_CUT[cost]]) for cost in costs}
        rows.append(cells(name, summary.static_test_accuracy, cut["accuracy_all"], own))
    if smaller is not None:
        own = {cost: smaller.get(f"{cost}_share") for cost in costs}
        whole = {cost: getattr(reference, _REFERENCE[cost]) for cost in costs}
        own = {cost: None if share is None else share * whole[cost] for cost, share in own.items()}
        rows.append(cells(f"Smaller network: {smaller['smaller']}", None, smaller["accuracy"], own))
    note = "Costs are means per image on the validation images. "
    if cut is None:
        note += f"No plain cut stays within {summary.tolerance * 100:g} point of the classic network on validation. "
    if smaller is not None:
        note += "The smaller network was not measured on test images."
    return Table(title="Beside the alternatives", columns=columns, rows=rows, note=note.strip())


def _costs_of(row: dict[str, Any], costs: Sequence[str]) -> dict[str, float | None]:
    return {cost: row[COSTS[cost][1]] for cost in costs}


def classic_on_test(summary: FrontSummary) -> float | None:
    """The accuracy on test of the reference network; None where no point of the front is of this network."""
    points, reference = summary.points, summary.reference
    same = points[(points["trial_id"] == reference.trial_id) & (points["precision"] == reference.precision)]
    return None if same.empty else float(pd.Series(same["test_classic_accuracy"]).iloc[0])


def _commands(source: Source, row: dict[str, Any]) -> list[Command]:
    folder, number = str(source.folder), str(row["number"])
    text = source.command("evaluate", "--point", folder, number, *source.to_run_networks())
    does = "Evaluate this point" if source.has_weights else "Evaluate it where the weights are"
    found = [Command(does=does, text=text)]
    if source.has_weights:
        text = source.command("export", folder, "--point", number, *source.to_run_networks())
        found.append(Command(does="Export it as a model", text=text))
    if isinstance(source.folder, Path):  # `run` reads a study file on this machine
        own_images = "image_folder" in source.spec.data.names
        does = "Reproduce the study; my_images is the folder of your images" if own_images else "Reproduce the study"
        found.append(Command(does=does, text=reproducing(source)))
    if row["certified_drop"] is None:
        text = source.command("front", folder, "--guarantee", "0.01", *source.of_data())
        found.append(Command(does="Certify a loss of 1 point at most", text=text))
    text = source.command("front", folder, "--output", "front.csv", *source.of_data())
    found.append(Command(does="Write the front as a table", text=text))
    return found


def reproducing(source: Source) -> str:
    """The command that runs the study again in a new folder."""
    words = ["predictive-exit", "run", str(source.folder / STUDY_FILE), "--name", f"{source.spec.name}-again"]
    words += code_option(source.spec)
    if "image_folder" in source.spec.data.names:
        words += ["--folder", "my_images"]
    return shlex.join(words)
