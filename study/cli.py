"""The command ``predictive-exit``: parse, call, print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from search_spaces.spec import SpecError, load_space
from study.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, or 2 for a user's mistake, told in one line on stderr."""
    options = _parser().parse_args(arguments)
    from results.tables import TableError

    try:
        options.run(options)
    except (UserError, SpecError, TableError) as error:
        print(f"predictive-exit: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="predictive-exit")
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run")
    run.add_argument("space")
    run.add_argument("--storage", default="runs")
    run.add_argument("--name")
    run.add_argument("--data-root", default="data")
    run.add_argument("--address")
    run.set_defaults(run=_run)
    return parser


def _run(options: argparse.Namespace) -> None:
    from study.progress import Reporter
    from study.run import Surroundings, run_folder, run_study

    spec = load_space(options.space)
    where = Surroundings(
        folder=run_folder(options.storage, options.name or spec.name),
        data_root=Path(options.data_root),
        address=options.address,
        reporter=Reporter(),
    )
    run_study(spec, where)


if __name__ == "__main__":
    sys.exit(main())
