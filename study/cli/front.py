"""``predictive-exit front``: print, write or draw the front of a study."""

from __future__ import annotations

import argparse

from study.cli.options import add_cost, add_stored_space, path, run_folder
from study.errors import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``front``."""
    parser.add_argument("folder", type=run_folder, help="run folder")
    parser.add_argument(
        "--exact",
        action="store_true",
        help="compute the exact front of all betas and start layers from the stored traces, on validation",
    )
    add_stored_space(parser, "with --exact: change the search space, as operating_points.policy=hierarchical")
    parser.add_argument(
        "--guarantee",
        type=_drop,
        metavar="DROP",
        help="certify points that lose at most this share of accuracy on new images, as 0.01 for one point; a study "
        "without certification split certifies on one half of its test images and reports on the other",
    )
    parser.add_argument("--confidence", type=_confidence, help="of --guarantee (default: 0.9)")
    add_cost(parser)
    parser.add_argument("--output", type=path, metavar="FILE", help="write the front as .csv or .parquet")
    parser.add_argument("--figure", type=path, metavar="FILE", help="draw the front as .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="print the front as JSON")


def execute(options: argparse.Namespace) -> None:
    """Print, write or draw the front of a study."""
    from study.cli.printing import check_output

    check_output("front: --figure", options.figure, ".png", ".svg", ".pdf")
    check_output("front: --output", options.output, ".csv", ".parquet")
    _check_together(options)
    if options.guarantee is not None:
        from study.cli.guarantee import show_guarantee

        show_guarantee(options)
    elif options.exact:
        from study.cli.points import show_exact_front

        show_exact_front(options)
    else:
        _show_stored_front(options)


def _check_together(options: argparse.Namespace) -> None:
    """Refuse (``UserError``) options that do not go together."""
    if options.guarantee is not None and (options.exact or options.figure):
        raise UserError("front: --guarantee certifies the stored front: leave out --exact and --figure")
    if options.confidence is not None and options.guarantee is None:
        raise UserError("front: --confidence belongs to --guarantee")
    if options.cost != "flops" and (options.exact or options.guarantee is not None or options.figure or options.output):
        raise UserError(
            "front: --cost chooses a point of the printed front: leave out --exact, --guarantee, --figure and --output"
        )
    if options.set and not options.exact:
        raise UserError("front: --set belongs to --exact: the front of a study is that of its own space")


def _show_stored_front(options: argparse.Namespace) -> None:
    from study.cli.points import print_front, write_points
    from study.run.stored_front import require_front

    tables = require_front(options.folder)
    if options.output:
        from results.summary import summarize_front

        write_points(summarize_front(tables, data=options.data).points, options.output)
    if options.figure:
        from results.figures.front import front_figure

        front_figure(tables, options.figure, data=options.data)
    print_front(options.folder, as_json=options.json, data=options.data, cost=options.cost)


def _drop(text: str) -> float:
    return _between(text, 0, 1, "a share above 0 and below 1, as 0.01 for one point")


def _confidence(text: str) -> float:
    return _between(text, 0.5, 1, "a confidence above 0.5 and below 1, as 0.9")


def _between(text: str, low: float, high: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = low
    if not low < value < high:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text[:60]}")
    return value
