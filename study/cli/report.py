"""``predictive-exit report``: one page that shows a study, and opens without network."""

from __future__ import annotations

import argparse
from pathlib import Path

from results.storage.paths import Location
from study.cli.options import path, run_folder
from study.errors import UserError
from study.run.folder import STUDY_FILE, no_run_folder


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``report``."""
    parser.add_argument("folders", nargs="+", type=run_folder, metavar="RUN", help="run folder, or several to compare")
    parser.add_argument(
        "--output", type=path, metavar="FILE", help="the page to write, .html (default: report.html in the run folder)"
    )
    parser.add_argument(
        "--images",
        action="store_true",
        help="show a few images that stop early and late: the file then holds images of the data set",
    )
    parser.add_argument(
        "--data-root", type=path, metavar="DIR", help="folder of data sets, for --images (default: data)"
    )


def execute(options: argparse.Namespace) -> None:
    """Write the page.

    Raises:
        UserError: the page cannot be written at its place, or a folder is no run folder.
    """
    from study.cli.printing import check_output
    from study.report.writing import NAME, write_report
    from study.storage.publish import check_writable

    if options.output is not None:
        check_output("report: --output", options.output, ".html", ".htm")
        output: Location = options.output
    elif len(options.folders) > 1:
        raise UserError("report: name the page of several runs with --output FILE")
    else:
        output = options.folders[0] / NAME
        if not (options.folders[0] / STUDY_FILE).is_file():
            raise no_run_folder(options.folders[0])
        try:
            check_writable(output.parent)
        except UserError as error:
            raise UserError(f"{error}; write the page elsewhere with --output FILE") from None
    if options.data_root is not None and not options.images:
        raise UserError("report: --data-root belongs to --images")
    root = (options.data_root or Path("data")) if options.images else None
    write_report(options.folders, output, images=root)
    print(f"report: {output}")


def report_of_run(folder: Location) -> str:
    """Write the page of a run that has just ended, into its folder; return the line that tells so.

    The results are safe by then: whatever is wrong with the page, the run has not failed.
    """
    try:
        from study.report.writing import NAME, write_report

        write_report([folder], folder / NAME)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return f"the report could not be written ({reason}); the results are complete"
    return f"report: {folder / NAME}"
