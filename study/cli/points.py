"""Operating points of a stored study on the command line: their search space, tables and files of points, fronts."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd

from results.parts import data_names, rows_of
from results.point_text import policy_text, setting_text
from results.storage.atomic import write_atomic
from results.storage.paths import Location
from results.summary import FrontSummary, balanced_says_more, summary_json
from search_spaces.spec import parse_change
from study.cli.printing import PlainTable, console_of
from study.run.backbones import stored_backbones
from study.run.few_images import few_images_lines
from study.run.reader import stored_study
from study.run.stored_front import evaluate_command, exact_stored, require_front, stored_summary
from study.search.exact_report import ExactReport
from study.search.guarantee import guarantee_words
from study.search.smaller import beaten_by, smaller_rows, smaller_sentence
from study.storage.strict_json import dumps

SHOWN = 60
"""Rows of a printed table of points."""
NETWORK = {"network": "{trial_id} {precision}"}
COSTS = {"flops_share": ("FLOPs", ".1%"), "energy_share": ("energy", ".1%")}
"""Columns of every table of points, as :func:`points_table` takes them."""


def write_points(points: pd.DataFrame, output: Path) -> None:
    """Write operating points as .csv or .parquet."""
    content = BytesIO()
    if output.suffix == ".csv":
        points.to_csv(content, index=False)
    else:
        points.to_parquet(content, index=False)
    write_atomic(output, content.getvalue())


def points_table(
    title: str,
    points: pd.DataFrame,
    names: Mapping[str, str],
    numbers: Mapping[str, tuple[str, str]],
    *,
    settings: bool = True,
) -> PlainTable:
    """A table with a row for each operating point: names, policy, perhaps its setting, numbers.

    ``names``: heading -> format of a row, as ``{trial_id} {precision}``. ``numbers``: column -> (heading, format); a
    column without a value is left out.
    """
    shown = {name: form for name, form in numbers.items() if name in points and points[name].notna().any()}
    texts = [policy_text, setting_text] if settings else [policy_text]
    headings = [*names, "policy", "setting"][: len(names) + len(texts)]
    table = PlainTable(title, headings, [heading for heading, _ in shown.values()])
    for row in rows_of(points):
        values = ("" if row[name] is None else format(row[name], form) for name, (_, form) in shown.items())
        table.add_row(*(form.format_map(row) for form in names.values()), *(text(row) for text in texts), *values)
    return table


def thinned(points: pd.DataFrame, named: Sequence[int] = ()) -> pd.DataFrame:
    """About ``SHOWN`` rows of a front, spread evenly, and the rows of the numbers in ``named``."""
    places = np.linspace(0, len(points) - 1, min(SHOWN, len(points))).astype(np.int64)
    if named:
        places = np.concatenate([places, np.flatnonzero(points["number"].isin(named))])
    return points.iloc[np.unique(places)]


def print_front(folder: Location, *, as_json: bool, data: str | None = None, cost: str = "flops") -> None:
    """Print the front of each data set of a run folder, or of one of them.

    ``cost`` chooses the recommended point (:func:`study.run.stored_front.stored_summary`).
    """
    several = data_names(require_front(folder), "front") if data is None else []
    names = several if len(several) > 1 else [data]
    fronts = {name: stored_summary(folder, data=name, cost=cost) for name in names}
    if as_json:
        printed = {name: summary_json(summary) for name, summary in fronts.items()}
        print(dumps(printed if len(fronts) > 1 else printed[data], indent=1))
        return
    console = console_of()
    for name, summary in fronts.items():
        if len(fronts) > 1:
            console.print(f"data set {name}")
        for line in [*recommendation_lines(summary, folder), *few_images_lines(folder, summary, name)]:
            console.print(line, soft_wrap=True)
        console.print(_front_table(summary))
        smaller = smaller_lines(summary, folder, name)
        for line in [*front_lines(summary), *_uncertified_lines(folder, summary), *smaller]:
            console.print(line, soft_wrap=True)
    console.print(f"tables: {folder / 'tables'}")


def recommendation_lines(summary: FrontSummary, folder: Location) -> list[str]:
    """The recommended point, what it costs and gains, and, where there are weights, the command that evaluates it."""
    row = next(iter(rows_of(summary.recommended.to_frame().T)))
    shares = [f"{row['flops_share']:.1%} of the classic network's FLOPs"]
    if summary.energy_source:
        shares.append(f"{row['energy_share']:.1%} of its energy")
    if summary.latency_source:
        shares.append(f"{row['latency_share']:.1%} of its mean latency")
    setting = ", ".join(part for part in (policy_text(row), setting_text(row)) if part)
    command = f"evaluate it: {evaluate_command(folder, row['number'])}"
    return [
        f"recommended: point {row['number']} ({setting}; {row['trial_id']} {row['precision']}) with "
        f"{' and '.join(shares)}; accuracy {row['accuracy']:.2%} on validation "
        f"({_gained(row['accuracy_drop'])}), {row['test_accuracy']:.2%} on test "
        f"[{row['test_accuracy_low']:.2%}, {row['test_accuracy_high']:.2%}]",
        f"why: {summary.reason}",
        *([command] if (folder / "checkpoints").exists() else []),
    ]


def _gained(drop: float) -> str:
    """A loss of accuracy, as a share, as gained points with their sign; no loss is +0.00."""
    return f"{round(-drop * 100, 2) + 0.0:+.2f} points"


def smaller_lines(summary: FrontSummary, folder: Location, data: str | None) -> list[str]:
    """Each smaller network of phase 1 as it stands, and a sentence where the recommended point loses to one."""
    reference, point = summary.reference, summary.recommended
    backbones = stored_backbones(folder, stored_study(folder).operating_points, data)
    rows = smaller_rows(reference.trial_id, reference.accuracy, {"flops": reference.flops}, backbones)
    lines = [
        f"smaller network {row['smaller']} ({row['smaller_id']}) without exits: {row['flops_share']:.1%} of its FLOPs, "
        f"accuracy {row['accuracy']:.2%} on validation ({_gained(row['accuracy_drop'])})"
        for row in rows_of(rows)
    ]
    rival = beaten_by(point["accuracy"], point["flops_share"], rows)
    if rival is not None:
        what = f"recommended point {point['number']}"
        lines.append(smaller_sentence(what, point["flops_share"], point["accuracy"], rival))
    return lines


def front_lines(summary: FrontSummary) -> list[str]:
    """The summary of a front in sentences."""
    classic, points = summary.reference, summary.tolerance * 100
    costs = [f"{classic.flops / 1e6:.2f} MFLOPs"]
    if summary.energy_source:
        costs.append(f"{classic.energy_joules * 1e3:.4g} mJ ({_source(summary.energy_source, summary.device)})")
    if summary.latency_source:
        costs.append(f"{classic.latency_seconds * 1e3:.4g} ms ({_source(summary.latency_source, summary.device)})")
    lines = [
        f"classic network {classic.trial_id} ({classic.precision}): validation accuracy {classic.accuracy:.2%}, "
        f"{', '.join(costs)} per image"
    ]
    best, thrifty = summary.best_point, summary.thriftiest_point
    drop = f"{points:g} point" + ("" if points == 1 else "s")
    if best is None:
        lines.append(f"no point of the front is within {drop} of it")
    else:
        lines.append(
            f"at most {drop} below it on validation, fewest FLOPs: point {best['number']} with "
            f"{best['flops_share']:.1%} of its FLOPs"
            + (f" and {best['energy_share']:.1%} of its energy; " if summary.energy_source else "; ")
            + f"on test {best['test_accuracy']:.2%} "
            + f"[{best['test_accuracy_low']:.2%}, {best['test_accuracy_high']:.2%}], "
            f"the same network without exits {best['test_classic_accuracy']:.2%}"
        )
    if best is not None and thrifty is not None and thrifty["number"] != best["number"]:
        lines.append(
            f"least energy: point {thrifty['number']} with {thrifty['energy_share']:.1%} of its energy and "
            f"{thrifty['flops_share']:.1%} of its FLOPs; on test {thrifty['test_accuracy']:.2%}"
        )
    if summary.optimism is not None:
        lines.append(
            f"optimism: the front has {abs(summary.optimism):.1%} {'less' if summary.optimism >= 0 else 'more'} "
            f"hypervolume on test than on validation; from validation to test its points' accuracy changes by "
            f"{-summary.mean_optimism * 100:+.2f} points in the mean, that of their classic networks by "
            f"{-summary.classic_optimism * 100:+.2f}"
        )
    static = summary.best_static
    if static is not None:
        share = static["cumulative_flops"] / classic.flops
        cut = f"a network simply cut (exit {static['exit']} of {static['trial_id']}, {static['precision']})"
        energy = f" and {static['cumulative_energy_joules'] / classic.energy_joules:.1%} of its energy"
        test = summary.static_test_accuracy
        on_test = "not evaluated on test" if test is None else f"on test {test:.2%}"
        lines.append(
            f"{cut} needs {share:.1%} of its FLOPs{energy if summary.energy_source else ''} for that; {on_test}"
        )
    return lines


def _uncertified_lines(folder: Location, summary: FrontSummary) -> list[str]:
    """What a study says that asks for a guarantee and has no certified point."""
    asked = stored_study(folder).guarantee
    if asked is None or summary.points["certified_drop"].notna().any():
        return []
    return [
        f"guarantee ({guarantee_words(asked)}): no point is certified; "
        f"`predictive-exit front {shlex.quote(str(folder))} --guarantee {asked.accuracy_drop:g} "
        f"--confidence {asked.confidence:g}` says how many images would be needed"
    ]


def _source(source: str, device: str | None) -> str:
    """An energy or latency source and its device; the name of a model says the device already."""
    return source if source.startswith("modelled:") or device is None else f"{source} on {device}"


def _front_table(summary: FrontSummary) -> PlainTable:
    points = (summary.recommended, summary.best_point, summary.thriftiest_point)
    named = [point["number"] for point in points if point is not None]
    shown = thinned(summary.points, named)
    some = "" if len(shown) == len(summary.points) else f" ({len(shown)} of {len(summary.points)} points)"
    ends = zip(shown["test_accuracy_low"], shown["test_accuracy_high"], strict=True)
    latency = {"latency_share": ("mean\nlatency", ".1%")} if summary.latency_source else {}
    uneven = any(map(balanced_says_more, shown["test_accuracy"], shown["test_balanced_accuracy"]))
    balanced = {"test_balanced_accuracy": ("balanced", ".2%")} if uneven else {}
    return points_table(
        f"front: chosen on validation, reported on test{some}; * is recommended",
        shown.assign(
            mark=[
                f"{number} *" if number == summary.recommended["number"] else str(number) for number in shown["number"]
            ],
            interval=[f"{low * 100:.1f}-{high * 100:.1f}" for low, high in ends],
        ),
        {"point": "{mark}", **NETWORK},
        {
            **COSTS,
            **latency,
            "accuracy": ("accuracy", ".2%"),
            "test_accuracy": ("test", ".2%"),
            "interval": ("95 %", "s"),
            **balanced,
            "certified_drop": ("certified\nloss", ".3%"),
        },
    )


def show_exact_front(options: argparse.Namespace) -> None:
    """Compute the exact front on the validation split; print, write and draw it. Neither images nor weights are needed.

    Raises:
        UserError: the front of this space cannot be computed exactly, or something stored is missing.
    """
    report = exact_stored(options.folder, [parse_change(text) for text in options.set], options.data)
    points = report.points
    if options.output:
        write_points(points, options.output)
    if options.figure:
        from results.figures.front import exact_figure

        exact_figure(points, report.reference.classic_accuracy, options.figure)
    if options.json:
        print(dumps({**report.facts(), "front": list(rows_of(points))}, indent=1))
        return
    shown = thinned(points)
    console = console_of()
    console.print(
        points_table(
            f"exact front on validation: {len(shown)} of {len(points)} points, all with --output",
            shown.assign(beta=None),  # a point holds for an interval of betas
            NETWORK,
            _EXACT_NUMBERS,
        )
    )
    for sentence in _exact_lines(report):
        console.print(sentence, soft_wrap=True)


_EXACT_NUMBERS = {
    "beta_low": ("beta\nabove", ".5g"),
    "beta_high": ("up to", ".5g"),
    "accuracy": ("accuracy", ".2%"),
    **COSTS,
    "latency_mean_share": ("mean\nlatency", ".1%"),
}


def _exact_lines(report: ExactReport) -> list[str]:
    points, costs, classic = report.points, report.reference_costs, report.reference
    energy = ""
    if "energy" in costs:
        energy = f", {costs['energy'] * 1e3:.4g} mJ ({points['energy_source'].iloc[0]})"
    sentences = [
        f"{len(points)} points in {report.seconds:.2f} s; shares are of the classic network {classic.trial_id} "
        f"({classic.precision}): accuracy {classic.classic_accuracy:.2%}, {costs['flops'] / 1e6:.2f} MFLOPs{energy} "
        f"per image; hypervolume {report.hypervolume:.4f}"
    ]
    near = points[points["accuracy_drop"] <= 0.01 + 1e-12]
    if len(near):
        sentences.append(f"fewest FLOPs at most 1 point below the classic network: {near['flops_share'].min():.1%}")
    ratio = report.search.get("hypervolume_ratio_of_the_search")
    if ratio is not None:
        sentences.append(
            f"the study's own search, in its own space, found {ratio:.2%} of this hypervolume, and points that "
            f"dominate {report.search['dominated_by_the_search']:.1%} of these points"
        )
    sentences.append("chosen on validation images; the table `front` of a study reports its points on test images")
    return sentences
