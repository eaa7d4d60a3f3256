"""``predictive-exit front --exact``: the exact front of a run folder's networks, from their stored traces."""

from __future__ import annotations

import argparse

from results.parts import read_or_empty, rows_of
from search_spaces.spec import parse_change
from study.cli.points import points_table, stored_space, thinned, write_points
from study.cli.printing import console_of
from study.errors import UserError
from study.run.reader import stored_networks
from study.search.exact_report import ExactReport, exact_report
from study.search.exact_search import uncovered
from study.search.space import check_depth
from study.storage.strict_json import dumps


def show_exact_front(options: argparse.Namespace) -> None:
    """Compute the exact front on the validation split; print, write and draw it.

    Args:
        options: of the command ``front``. Neither images nor weights are needed.

    Raises:
        UserError: the front of this space cannot be computed exactly, or something stored is missing.
    """
    folder = options.folder
    space = stored_space(folder, [parse_change(text) for text in options.set])
    reason = uncovered(space)
    if reason:
        raise UserError(f"front --exact does not cover this space: {reason}; --set {reason.remedy}")
    networks = stored_networks(folder, space, options.data)
    check_depth(space, min(network.exit_count for network in networks))
    report = exact_report(space, networks, read_or_empty(folder / "tables", "operating_points"))
    points = report.points
    if options.output:
        write_points(points, options.output)
    if options.figure:
        from results.figures import exact_figure

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
            {"network": "{trial_id} {precision}"},
            _NUMBERS,
        )
    )
    for sentence in _sentences(report):
        console.print(sentence, soft_wrap=True)


_NUMBERS = {
    "beta_low": ("beta\nabove", ".5g"),
    "beta_high": ("up to", ".5g"),
    "accuracy": ("accuracy", ".2%"),
    "flops_share": ("FLOPs", ".1%"),
    "energy_share": ("energy", ".1%"),
    "latency_mean_share": ("mean\nlatency", ".1%"),
}


def _sentences(report: ExactReport) -> list[str]:
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
