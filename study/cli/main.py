"""The command ``predictive-exit``: parse the options, call the command, report errors and signals."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from results.schemas import TableError
from search_spaces.spec import SpecError
from search_spaces.words import printable
from study.cli import compare, evaluate, export, front, pack, predict, profile, report, run, serve, status, train, watch
from study.cli.options import add_own_code
from study.errors import UserError, is_lack_of_memory
from study.networks.own_code import trust_only
from study.storage.versions import version_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0; 1 where images were passed over because they cannot be read; 2 after a user's mistake, which
        one line on stderr tells; 128 + number after a signal.
        The reader of a pipe may stop reading (``head``, ``less``): the exit code is 0.
    """
    _replace_closed_streams()
    try:
        try:
            return _call(arguments)
        finally:  # also after --help: an error while the interpreter shuts down would change the exit code
            sys.stdout.flush()
    except BrokenPipeError:
        return 0
    finally:
        _release_broken_pipes()


def _call(arguments: Sequence[str] | None) -> int:
    options = build_parser().parse_args(arguments)
    try:
        if options.execute is run.execute:
            _end_on_signals()
        trust_only(*[options.code] if getattr(options, "code", None) else [])
        code: int | None = options.execute(options)
    except (UserError, SpecError, TableError) as error:
        return _refuse(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{place}{error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        return _refuse(f"not enough memory: {str(error) or 'take smaller batches, fewer or smaller images'}")
    except KeyboardInterrupt:
        _tell("stopped; the same command goes on from here" if _resumes(options) else "stopped")
        return 128 + (_ended_by.pop() if _ended_by else signal.SIGINT)
    return code or 0


def _resumes(options: argparse.Namespace) -> bool:
    """Whether the same command, given again after an interruption, continues where the first one stopped."""
    if options.execute is run.execute:
        return not options.dry_run
    return options.execute is train.execute and not options.no_save


_ended_by: list[int] = []
"""Signals other than Ctrl-C. The exception cannot carry them: Ray replaces an exception raised while Ray waits."""


def _replace_closed_streams() -> None:
    """Discard what is written to a stream that was closed before the start; Python gives None as the stream."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 (as long as the process)


def _release_broken_pipes() -> None:
    """Discard the buffers of pipes without a reader, so that the shutdown of the interpreter does not fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _end_on_signals() -> None:
    """Let SIGTERM (of a cluster, ``timeout``, systemd) and SIGHUP (of a closed terminal) end a study like Ctrl-C."""

    def end(number: int, frame: object) -> NoReturn:
        for one in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, signal.SIG_IGN)  # the process ends; a second signal would only add a traceback
        _ended_by.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores SIGHUP on purpose
            signal.signal(signal.SIGHUP, end)


def _refuse(message: str) -> int:
    _tell(_one_line(message))
    return 2


def _tell(line: str, program: str = "predictive-exit") -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody reads stderr; the exit code still reports the error
        print(f"{program}: {line}", file=sys.stderr)


def _one_line(message: str) -> str:
    """A message in one line of limited length, with its control characters escaped."""
    line = " ".join(message.split())
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE - 200]} ... {line[-200:]}"
    return printable(line)


_LONGEST_LINE = 1000


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands and options."""
    parser = _Parser(
        prog="predictive-exit", description="Early-exit image classifiers that predict where they will stop."
    )
    parser.add_argument("--version", action="version", version=version_of("predictive-exit"))
    parsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for module, text in (
        (run, "run a study, or resume it"),
        (train, "train one network, without Ray"),
        (evaluate, "evaluate one network, without Ray"),
        (profile, "measure the costs of a network on this device"),
        (front, "print, write or draw the front of a study"),
        (compare, "compare policies at equal accuracy on the networks of a study"),
        (export, "write a point of a front as a model that runs without this program"),
        (predict, "classify image files with an exported model"),
        (serve, "answer image files over HTTP with an exported model"),
        (report, "write a page that shows a study, or compares several"),
        (watch, "serve that page for a running study, refreshed as rows arrive"),
        (pack, "copy the results of a study without weights, to share them"),
        (status, "print what of a study is done and what is left"),
    ):
        command = parsers.add_parser(module.__name__.rpartition(".")[2], help=text)
        module.add_options(command)
        if module not in (predict, serve, pack, status):
            add_own_code(command)
        command.set_defaults(execute=module.execute)
    return parser


class _Parser(argparse.ArgumentParser):
    """Reports a wrong option in one line."""

    def error(self, message: str) -> NoReturn:
        _tell(f"{_one_line(message)} (see {self.prog} --help)", self.prog)
        self.exit(2)
