"""``predictive-exit pack``: copy a study without its weights."""

from __future__ import annotations

import argparse

from study.cli.options import path, run_folder


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``pack``."""
    parser.add_argument("folder", type=run_folder, help="run folder")
    parser.add_argument("destination", type=path, help="a new folder")


def execute(options: argparse.Namespace) -> None:
    """Make a small copy of a study."""
    from study.cli.points import print_front
    from study.progress import Reporter
    from study.run.pack import pack

    pack(options.folder, options.destination, Reporter())
    print_front(options.destination, as_json=False)
