"""``predictive-exit watch``: the page of a running study in a browser, refreshed as rows arrive."""

from __future__ import annotations

import argparse
import os

from study.cli.options import port, run_folder
from study.run.folder import STUDY_FILE, no_run_folder

_PORT = 8765


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``watch``."""
    parser.add_argument("folder", type=run_folder, metavar="RUN", help="run folder")
    parser.add_argument(
        "--port",
        type=port,
        default=_PORT,
        metavar="N",
        help="port of the page; 0: any free one (default: %(default)s)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen at; any but the default lets other machines read the page (default: %(default)s)",
    )


def execute(options: argparse.Namespace) -> None:
    """Serve the page of a study until Ctrl-C.

    Raises:
        UserError: the folder is no run folder, or the port cannot be had.
    """
    if not (options.folder / STUDY_FILE).exists():
        raise no_run_folder(options.folder)
    from study.report.live_server import LiveServer
    from study.report.live_study import LiveStudy

    with LiveServer(LiveStudy(options.folder), host=options.host, port=options.port) as server:
        print(f"watch: {server.address} shows {options.folder}; Ctrl-C ends it", flush=True)
        if not server.is_loopback:
            print("watch: everyone who reaches this port can read the page, and nothing is encrypted", flush=True)
        os.nice(10)  # the processor is the study's first
        server.serve_forever()
