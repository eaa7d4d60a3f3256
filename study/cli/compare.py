"""``predictive-exit compare``: compare policies at equal accuracy on the networks of a study."""

from __future__ import annotations

import argparse

from search_spaces.spec import parse_change
from study.cli.options import add_stored_space, path, run_folder


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
    parser.add_argument("--objective", default="flops", choices=("flops", "energy"), help="the cost to minimise")
    parser.add_argument(
        "--report-test",
        action="store_true",
        help="report the chosen points on test too; without it the test traces are not opened",
    )
    add_stored_space(parser, "change costs, precisions, jumps or constraints, as operating_points.statistic=mean_max")
    parser.add_argument("--output", type=path, metavar="FILE", help="write all rows as .csv or .parquet")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def execute(options: argparse.Namespace) -> None:
    """Compare policies at equal accuracy."""
    from study.cli.comparison_view import show_comparison
    from study.cli.printing import check_output
    from study.search.compare import DROPS

    check_output("compare: --output", options.output, ".csv", ".parquet")
    show_comparison(
        options.folder,
        [parse_change(text) for text in options.set],
        data=options.data,
        drops=options.drop or DROPS,
        objective=options.objective,
        report_test=options.report_test,
        output=options.output,
        as_json=options.json,
    )


def share(text: str) -> float:
    """A share from 0 to below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to below 1, as 0.01 for one point, got {text}")
    return value
