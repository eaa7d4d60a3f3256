"""Feed the readers of files with what nobody wrote, for as long as you like.

    python tests/bad_input/fuzz.py                        # all readers in turn, a minute each, by hypothesis
    python tests/bad_input/fuzz.py study_text set_text --seconds 600
    python tests/bad_input/fuzz.py study_text --engine atheris --seconds 600    # led by coverage (pip install atheris)

A reader may return what is right or refuse in one line (``SpecError``, ``UserError``, ``TableError``); anything else
that it raises, a wait of seconds, or half a gigabyte of memory is a fault. Faults are printed with the smallest input
that shows them, and the exit code is 1. ``test_fuzz.py`` runs the same targets for some seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]
hooks: Any = contextlib.nullcontext()
if "atheris" in sys.argv:  # coverage is known only of what is imported from here on
    import atheris

    hooks = atheris.instrument_imports(include=["search_spaces", "study", "results", "yaml"])
with hooks:
    from support.fuzz_targets import TARGETS, check


def by_hypothesis(name: str, seconds: float) -> int:
    """Feed a target until the time is up; returns the number of inputs."""
    count, end, rounds = 0, time.monotonic() + seconds, time.time_ns()

    def feed(value: Any) -> None:
        nonlocal count
        count += 1
        check(name, value)

    while time.monotonic() < end:
        rounds += 1
        once = settings(
            max_examples=300,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.target, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        seed(rounds)(once(given(TARGETS[name].inputs)(feed)))()
    return count


def by_atheris(name: str, seconds: float) -> None:
    """The same, led by the coverage of what was read; ends the process."""
    feed = settings(deadline=None, database=None)(given(TARGETS[name].inputs)(lambda value: check(name, value)))
    limits = [f"-max_total_time={seconds:.0f}", "-rss_limit_mb=4096", f"-artifact_prefix={tempfile.gettempdir()}/"]
    atheris.Setup([sys.argv[0], *limits], feed.hypothesis.fuzz_one_input)
    atheris.Fuzz()


def main() -> int:
    """Run some targets, tell how many inputs they had, and what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target is called {', '.join(sorted(unknown))}")
    if options.engine == "atheris":
        if len(options.targets) != 1:
            parser.error("atheris takes one target a process")
        by_atheris(options.targets[0], options.seconds)
    faults = 0
    for name in options.targets or TARGETS:
        try:
            print(f"{name}: {by_hypothesis(name, options.seconds)} inputs, no fault", flush=True)
        except Exception:
            faults += 1
            print(f"{name}: a fault\n{traceback.format_exc(limit=-6)}", flush=True)
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main())
