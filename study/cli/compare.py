"""``predictive-exit compare``: compare policies at equal accuracy on the networks of a study."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search_spaces.spec import parse_change
from search_spaces.words import COST_NAMES
from study.cli.options import add_stored_space, path, run_folder
from study.storage.strict_json import dumps

if TYPE_CHECKING:
    import pandas as pd

    from study.cli.printing import PlainTable
    from study.search.cheapest import Objective

_CHOSEN = (
    "these intervals are those of the policies that are named: that each was chosen as the cheapest of all, on the "
    "same images, is not in them, and makes its cost look a little lower than it is"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``compare``."""
    parser.add_argument("folder", type=run_folder, help="run folder")
    parser.add_argument(
        "--drop",
        nargs="+",
        type=share,
        metavar="SHARE",
        help="accuracy that may be lost against the network without exits, on validation (default: 0 0.005 0.01 0.02)",
    )
    parser.add_argument("--objective", default="flops", choices=tuple(COST_NAMES), help="the cost to minimise")
    parser.add_argument(
        "--report-test",
        action="store_true",
        help="report the chosen points on test too; without it the test traces are not opened",
    )
    add_stored_space(parser, "change costs, precisions, jumps or constraints, as operating_points.statistic=mean_max")
    parser.add_argument("--output", type=path, metavar="FILE", help="write all columns as .csv or .parquet")
    parser.add_argument("--figure", type=path, metavar="FILE", help="draw loss against cost as .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="print all columns as JSON")


def execute(options: argparse.Namespace) -> None:
    """Compare policies at equal accuracy."""
    from results.parts import rows_of
    from study.cli.points import points_table, write_points
    from study.cli.printing import check_output, console_of
    from study.run.stored_comparison import compare_stored
    from study.search.compare import DROPS, best_families

    check_output("compare: --output", options.output, ".csv", ".parquet")
    check_output("compare: --figure", options.figure, ".png", ".svg", ".pdf")
    found = compare_stored(
        options.folder,
        [parse_change(text) for text in options.set],
        options.data,
        drops=options.drop or DROPS,
        objective=options.objective,
        report_test=options.report_test,
    )
    if options.output:
        write_points(found.rows, options.output)
    if options.figure:
        from results.figures.comparison import comparison_figure

        comparison_figure(found.rows, options.objective, options.figure)
    if options.json:
        names = ("rows", "predictions", "ranking", "smaller")
        tables = {("comparison" if name == "rows" else name): getattr(found, name) for name in names}
        print(dumps({name: list(rows_of(rows)) for name, rows in tables.items()}, indent=1))
        return
    console = console_of()
    for (trial, precision), rows in found.rows.groupby(["trial_id", "precision"], sort=False):
        split = "test" if options.report_test else "validation"
        title = f"{trial} at {precision}: chosen on validation for the least {COST_NAMES[options.objective]}"
        shown, numbers = _columns(rows, options.objective, on_test=options.report_test)
        console.print(points_table(f"{title}, reported on {split}", shown, {"at most": "{at_most:g}"}, numbers))
    best = list(rows_of(best_families(found.rows, options.objective)))
    for row in best:
        console.print(_sentence(row, options.objective), soft_wrap=True)
    if best:
        console.print(_CHOSEN, soft_wrap=True)
    if len(found.smaller):
        console.print(_smaller_table(found.smaller, options.objective))
    for line in _lost_to_smaller(best, found.smaller, options.objective):
        console.print(line, soft_wrap=True)
    for (trial, precision), rows in found.ranking.groupby(["trial_id", "precision"], sort=False):
        console.print(_ranking_sentence(f"{trial} {precision}", rows), soft_wrap=True)
    console.print("all columns: --json or --output")


def share(text: str) -> float:
    """A share from 0 to below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to below 1, as 0.01 for one point, got {text}")
    return value


def _columns(
    rows: pd.DataFrame, objective: Objective, *, on_test: bool
) -> tuple[pd.DataFrame, dict[str, tuple[str, str]]]:
    """The rows of one network with what is printed: column -> (heading, format).

    The printed loss, and the cost at equal loss, are those on test, or those on validation images that did not choose.
    """
    prefix, lost = ("test_", "test_drop") if on_test else ("", "unseen_drop")
    energies = [name for name in map(str, rows) if name.startswith(f"{prefix}energy_share")]
    shares = {
        f"{prefix}flops_share": "FLOPs",
        f"matched_{prefix}{objective}_share": f"{COST_NAMES[objective]} at\nequal loss",
        **{name: name.removeprefix(prefix).removeprefix("energy_share_").removesuffix("_share") for name in energies},
    }
    ends = rows[[f"{lost}_low", f"{lost}_high"]].astype(float)
    half = (ends[f"{lost}_high"] - ends[f"{lost}_low"]) / 2
    printed = rows.assign(at_most=rows["drop"] * 100, lost=rows[lost].astype(float) * 100, half=half * 100)
    numbers = {"lost": ("points\nlost", ".2f"), "half": ("± 95 %", ".2f")}
    return printed, numbers | {name: (heading, ".1%") for name, heading in shares.items()}


def _points_lost(drop: float) -> str:
    return f"{drop * 100:g} point{'' if drop == 0.01 else 's'} lost"


def _sentence(row: Mapping[str, Any], objective: Objective) -> str:
    """The cheapest family of one network and bound at equal loss, and its saving over a plain cut."""
    saving, share = "", f"matched_{objective}_share"
    if row["matched_saving"] is not None and row["family"] != "static":
        low, high = row["matched_saving_low"] * 100, row["matched_saving_high"] * 100
        saving = f"; {row['matched_saving'] * 100:.1f} points ({low:.1f} to {high:.1f}) less than the network cut"
    test = ""
    if (on_test := row.get(f"matched_test_{objective}_share")) is not None:
        test = f"; at this loss on test {on_test:.1%}"
    return (
        f"{row['trial_id']} {row['precision']}, {_points_lost(row['drop'])} on images that "
        f"did not choose: least {COST_NAMES[objective]} by {row['family']}, {row[share]:.1%} of classic "
        f"({row[f'{share}_low']:.1%} to {row[f'{share}_high']:.1%}){saving}{test}"
    )


def _smaller_table(rows: pd.DataFrame, objective: Objective) -> PlainTable:
    """Smaller networks of the run, against each reference network."""
    from results.parts import rows_of
    from study.cli.printing import PlainTable

    share = f"{objective}_share"
    on_test = bool(rows["test_accuracy"].notna().any())
    headings = [COST_NAMES[objective], "accuracy", *([f"{COST_NAMES[objective]}\non test", "test"] if on_test else [])]
    title = "smaller networks of this run: costs as shares of the network they are held against"
    table = PlainTable(title, ["against", "smaller network", "with"], headings)
    for row in rows_of(rows):
        numbers = [(row[share], ".1%"), (row["accuracy"], ".2%")]
        numbers += [(row[f"test_{share}"], ".1%"), (row["test_accuracy"], ".2%")] if on_test else []
        stands = "no exits" if row["drop"] is None else f"{row['family']}, {_points_lost(row['drop'])}"
        cells = ["" if value is None else format(value, form) for value, form in numbers]
        name = f"{row['smaller']} ({row['smaller_id']} {row['precision']})"
        table.add_row(row["trial_id"], name, stands, *cells)
    return table


def _lost_to_smaller(best: Sequence[Mapping[str, Any]], smaller: pd.DataFrame, objective: Objective) -> list[str]:
    """A sentence for each network and bound at which the cheapest family loses to a smaller network."""
    from study.search.smaller import beaten_by, smaller_sentence

    found = []
    for row in best:
        rivals = smaller[smaller["trial_id"] == row["trial_id"]]
        rival = beaten_by(row["accuracy"], row[f"{objective}_share"], rivals, objective)
        if rival is not None:
            what = f"{row['trial_id']} {row['precision']}, at most {_points_lost(row['drop'])}: {row['family']}"
            found.append(smaller_sentence(what, row[f"{objective}_share"], row["accuracy"], rival, objective))
    return found


def _ranking_sentence(network: str, rows: pd.DataFrame) -> str:
    """How well the confidences of a network rank images, in one line."""
    parts = []
    for column in (name for name in map(str, rows) if name.startswith("auroc_")):
        own = rows[column].dropna()
        if len(own):
            exit = rows["exit"].to_numpy()[rows[column].argmin()]
            parts.append(f"{column.removeprefix('auroc_')} {own.mean():.3f} (least {own.min():.3f} at exit {exit})")
    return (
        f"{network}, how well the confidence of an exit ranks images that should stop there before others (AUROC, mean "
        f"of all exits): {', '.join(parts)}"
    )
