"""``predictive-exit run``: run a study, or resume it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search_spaces.spec import parse_change
from search_spaces.study_files import bundled, load_space
from study.cli.options import add_image_source, image_place, name_or_path, path, run_folder
from study.networks.own_code import trust
from study.storage.publish import safe_name
from study.storage.strict_json import dumps


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``run``."""
    parser.add_argument(
        "space",
        type=name_or_path,
        help=f"a study file, or the name of one that comes with the program: {', '.join(bundled())}",
    )
    parser.add_argument(
        "--storage",
        type=run_folder,
        default="runs",
        metavar="DIR",
        help="where run folders are kept: a folder, or s3://bucket/folder (default: runs)",
    )
    parser.add_argument("--name", help="name of the run folder (default: the name of the study)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting, as backbones.epochs=5"
    )
    add_image_source(parser)
    parser.add_argument(
        "--folder", type=image_place, metavar="DIR", help="images of image_folder: a folder, or s3://bucket/folder"
    )
    parser.add_argument("--table", type=image_place, metavar="FILE", help="CSV or parquet file of paths and labels")
    parser.add_argument("--pretrained", type=path, metavar="PATH", help="your own weights; no backbone is trained")
    parser.add_argument(
        "--initial",
        type=name_or_path,
        metavar="PATH",
        help="weights that backbones start from, or as torchvision:IMAGENET1K_V1",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would run and for how long; start nothing")
    parser.add_argument("--extend", action="store_true", help="extend the smaller study of this run folder")
    parser.add_argument("--address", metavar="RAY", help="address of a running Ray cluster (default: this machine)")
    parser.add_argument("--local", action="store_true", help="work in this process, without Ray (to debug)")
    parser.add_argument("--no-report", action="store_true", help="do not write report.html into the run folder")
    parser.add_argument("--json", action="store_true", help="print the front as JSON")


def execute(options: argparse.Namespace) -> None:
    """Run a study, or resume it; with ``--dry-run``, print what would run."""
    changes = [parse_change(text) for text in options.set]
    for name in ("folder", "table"):
        if place := getattr(options, name):
            changes.append((f"data.{name}", str(place.absolute())))
    if options.pretrained:
        changes.append(("backbones.pretrained", str(options.pretrained)))
    if options.initial:
        changes.append(("backbones.initial", options.initial))
    spec = load_space(options.space, changes)
    if options.code is None and options.space not in bundled():
        trust(Path(options.space).parent)
    folder = options.storage / safe_name(spec.name if options.name is None else options.name, "the study's name")
    from study.cli.points import print_front
    from study.progress import Reporter
    from study.run.plan import RunContext, dry_run
    from study.run.run import plan_study, run_study

    where = RunContext(
        folder=folder,
        data_root=options.data_root,
        download=options.download,
        address=options.address,
        local=options.local,
        reporter=Reporter(),
    )
    if options.dry_run:
        from study.export.check import export_lines

        plan = plan_study(spec, where, extend=options.extend)
        networks = [one.network for one in plan.trials.exits_on_each(plan.trials.backbones.plans)]
        refused = [line for one in plan.datasets.values() for line in export_lines(networks, one.dataset.info)]
        planned = {**dry_run(plan, where), "export": list(dict.fromkeys(refused))}
        if options.json:
            print(dumps(planned, indent=1))
        else:
            _print_dry_run(planned)
        return
    run_study(spec, where, extend=options.extend)
    print_front(where.folder, as_json=options.json)
    if not options.no_report:
        from study.cli.report import report_of_run

        print(report_of_run(where.folder), file=sys.stderr if options.json else sys.stdout)


def _print_dry_run(result: Mapping[str, Any]) -> None:
    from study.cli.printing import PlainTable, console_of
    from study.run.images_line import images_line
    from study.run.status import outline_lines, span

    console = console_of()
    rows = result["backbones"]
    table = PlainTable(f"backbones of {result['folder']} (settings that vary)", rows[0])
    for row in rows[:_TRIALS_SHOWN]:
        table.add_row(*(row[name] for name in rows[0]))
    console.print(table)
    if len(rows) > _TRIALS_SHOWN:
        console.print(f"and {len(rows) - _TRIALS_SHOWN} more")
    for name, counts in result["images"].items():
        console.print(images_line(name, counts, result["notes"][name]), soft_wrap=True, markup=False)
    for line in outline_lines(result["phases"]):
        console.print(line)
    searched = result["searched"]
    number = searched["operating_points"]
    points = f"{number} operating points are searched" if isinstance(number, int) else "the exact front is computed"
    console.print(
        f"then at most {searched['networks']} networks are traced at {', '.join(searched['precisions'])}, and {points}"
    )
    for line in result["export"]:
        console.print(line, soft_wrap=True)
    for change in result["grows"]:
        console.print(f"extends the study: {change}")
    left = result["training_seconds_left"]
    about = "nothing is left to train" if left == 0 else "how long it takes is not known"
    if left:
        slots = result["trials_at_once"]
        at_once = "one trial after the other" if slots == 1 else f"with {slots} trials at once"
        about = f"training takes about {span(left)}, {at_once}"
    console.print(f"{about}; nothing was started or written")


_TRIALS_SHOWN = 20
