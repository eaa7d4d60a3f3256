"""``predictive-exit status``: what of a study is done and what is left."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from study.cli.options import run_folder
from study.storage.strict_json import dumps


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``status``."""
    parser.add_argument("folder", type=run_folder, help="run folder")
    parser.add_argument("--json", action="store_true", help="print the status as JSON")


def execute(options: argparse.Namespace) -> None:
    """Print what of a study is done and what is left."""
    from study.run.status import study_status

    status = study_status(options.folder)
    if options.json:
        print(dumps(status, indent=1))
    else:
        _print_status(status)


def _print_status(status: Mapping[str, Any]) -> None:
    from study.cli.printing import PlainTable, console_of
    from study.run.status import outline_lines, span

    console = console_of()
    columns = ["trial_id", "status", "mode", "network", "head", "epochs", "score"]
    columns += ["data"] if len(status["phases"]) > 2 else []
    columns += ["error"] if any(trial["error"] for trial in status["trials"]) else []
    table = PlainTable(f"study {status['study']}, created {status['created']}", columns)
    for trial in status["trials"]:
        score = trial.get("score")
        shown = {**trial, "score": None if score is None else f"{score:.4f}"}
        table.add_row(*("" if shown.get(name) is None else shown[name] for name in columns))
    console.print(table)
    console.print("asked: " + ", ".join(f"{value} {name}" for name, value in status["asked"].items()))
    failed = status["operating_points_failed"]
    console.print(f"operating points: {status['operating_points']}, {failed} of them failed")
    console.print(f"tables: {', '.join(status['tables']) or 'none yet'}")
    for line in outline_lines(status["phases"]):
        console.print(line)
    left, again = "not finished: the same `run` command goes on", status["failed"]
    if status["finished"]:
        left = f"finished, but for {again} failed trial{'' if again == 1 else 's'}: the same `run` command tries again"
        left = left if again else "finished"
    if status["driver_running"]:
        left = "running now"
    elif not status["constraints_kept"]:
        left = "not finished: no operating point so far keeps to the constraints"
    if status["seconds_left"] and not status["finished"]:
        left += f"; training takes about {span(status['seconds_left'])} more on a machine like this"
    console.print(left)
