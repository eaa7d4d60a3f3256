"""``predictive-exit export``: write a point of a front as a model that needs no study."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from study.cli.options import add_cost, add_image_source, path, run_folder
from study.errors import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``export``."""
    parser.add_argument("folder", type=run_folder, help="run folder of a finished study")
    parser.add_argument("--point", metavar="NUMBER", help="a point of the front (default: the recommended one)")
    add_cost(parser)
    parser.add_argument("--data", metavar="NAME", help="the data set, in a study of several data sets")
    parser.add_argument(
        "--output",
        type=path,
        metavar="DIR",
        help="a new folder (default: exported/<study>-<point>); an export is replaced",
    )
    parser.add_argument(
        "--format",
        default="torch",
        choices=("torch", "onnx", "all"),
        help="what the parts are written for (default: %(default)s); onnx needs the extra onnx",
    )
    add_image_source(parser)


def execute(options: argparse.Namespace) -> None:
    """Export a point."""
    from study.export.export import check_output, export_point
    from study.export.point import choose_point
    from study.progress import Reporter
    from study.run.one_network import ImageSource

    if options.point is not None and options.cost != "flops":
        raise UserError("export: --cost chooses the point: leave out --point or --cost")
    if options.output is not None:
        check_output(options.output)  # before networks are measured
    point = choose_point(options.folder, options.point, options.data, cost=options.cost)
    output = options.output or Path("exported") / f"{options.folder.name}-{point.row['number']}"
    check_output(output)
    reporter = Reporter()
    export_point(
        point,
        output,
        form=options.format,
        source=ImageSource(data_root=options.data_root, download=options.download),
        command=_command(options, output),
        told=lambda what: reporter.line(f"describing {what}"),
    )
    print(f"exported point {point.row['number']} of {options.folder} to {output}")
    print(f"classify images: python {shlex.quote(str(output / 'run.py'))} IMAGE ...")


def _command(options: argparse.Namespace, output: Path) -> str:
    parts = ["predictive-exit", "export", str(options.folder)]
    parts += ["--point", options.point] if options.point is not None else []
    parts += ["--cost", options.cost] if options.cost != "flops" else []
    parts += ["--data", options.data] if options.data is not None else []
    return shlex.join([*parts, "--output", str(output), "--format", options.format])
