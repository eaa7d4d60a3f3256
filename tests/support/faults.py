"""Kills a running study at random moments, runs it again, and compares its tables with those of one that lived.

    python tests/support/faults.py --seed 1 --kills 24

Real processes are killed with SIGKILL: the driver or a worker at a random file operation, the node (Ray's raylet), or
the whole machine (every process of the study at once) at a random moment: in training, in tracing, in the search, and
while the last tables are written. The seed decides who and when; the operating system decides what the victim was
doing.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import psutil
import yaml

from results.parts import read_table
from results.schemas import SCHEMAS
from results.storage.paths import Location

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 900
KEYS = {
    "provenance": ["provenance"],
    "trials": ["trial_id"],
    "epochs": ["trial_id", "epoch"],
    "exits": ["trial_id", "point", "precision", "split", "statistic", "exit"],
    "costs": ["trial_id", "precision", "part", "number"],
    "operating_points": ["search", "number"],
    "front": ["search", "number"],
}
"""Columns that tell the rows of each table apart."""
STUDY: dict[str, Any] = {
    "name": "small",
    "data": {"name": "digits", "limit": 120, "test_limit": 40, "calibration": 0.2, "validation": 0.2},
    "backbones": {
        "trials": 4,
        "epochs": 30,  # so many that a test meets the trials at work
        "scheduler": {"kind": "halving", "first_rung": 15, "reduction": 2},
        "backbone": "vgg11",
        "width": 0.0625,
        "learning_rate": {"low": 0.001, "high": 0.01, "log": True},
        "batch_size": 32,
        "precision": "fp32",
    },
    "exits": {"trials": 2, "epochs": 2, "head": ["linear", "conv"], "batch_size": 32, "precision": "fp32"},
    "operating_points": {
        "trials": 60,
        "batch": 10,
        "networks": 2,
        "policy": ["predictive", "hierarchical", "static", "classic"],
        "statistic": ["mean_logit", "mean_max"],
    },
    "resources": {"max_failures": 2},
}
"""A study of seconds, and most of them in the first rung of phase 1."""

Stage: TypeAlias = tuple[str, ...]
"""Where a stage of a study writes: beginnings of paths in the run folder."""
ANY: Stage = ("",)
TRAINING: Stage = ("checkpoints",)
TRACING: Stage = ("traces",)
SEARCH: Stage = ("tables/operating_points",)
TABLES: Stage = ("tables/costs", "tables/exits", "tables/front")


@dataclass(frozen=True)
class Kill:
    """Who dies, and when."""

    victim: str
    """``driver`` or ``worker`` at a file operation of the stage; ``node`` or ``machine`` at a moment of it."""
    at: float
    """Number of the file operation, or seconds from the first folder on that this start published there."""
    stage: Stage = ANY

    def __str__(self) -> str:
        when = f"operation {self.at:g}" if self.victim in ("driver", "worker") else f"{self.at:g} s"
        return f"{self.victim} at {when} in {self.stage[0] or 'all'}"


class MortalStudy:
    """A study in a folder of its own, run by processes that can be killed."""

    def __init__(self, folder: Path, study: dict[str, Any]) -> None:
        self.storage, self.state = folder / "runs", folder / "state"
        self.storage.mkdir(parents=True)
        self.run_folder = self.storage / study["name"]
        self.file = folder / "study.yaml"
        self.file.write_text(yaml.safe_dump(study))
        self.log = folder / "output.txt"
        self.warnings: list[str] = []

    def worker_died(self) -> bool:
        """Whether a worker was killed in the last start."""
        return (self.state / "dead worker").exists()

    def run(self, kill: Kill | None = None, *, worker: Kill | None = None) -> tuple[bool, bool]:
        """Start the study, and kill as told; a worker too, where one is given: by itself its death ends no start.

        Returns:
            Whether the study came to its end, and whether ``kill`` struck. (For the worker: :meth:`worker_died`.)
        """
        for claim in self.state.glob("*") if self.state.exists() else ():
            claim.unlink()
        self.state.mkdir(exist_ok=True)
        mortal = {
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "mortal"), str(ROOT)]),
            "MORTAL_FOLDER": str(self.run_folder.resolve()),
            "MORTAL_STATE": str(self.state),
        }
        for one in (kill, worker):
            if one and one.victim in ("driver", "worker"):
                mortal[f"MORTAL_{one.victim.upper()}_AT"] = str(int(one.at))
                mortal[f"MORTAL_{one.victim.upper()}_IN"] = os.pathsep.join(one.stage)
        command = [sys.executable, "-m", "study.cli", "run", str(self.file), "--storage", str(self.storage)]
        with self.log.open("w") as log:
            driver = subprocess.Popen(
                command, env={**os.environ, **mortal}, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )
            killed = False
            try:
                if kill and kill.victim in ("node", "machine"):
                    killed = self._kill(psutil.Process(driver.pid), kill)
                code = driver.wait(timeout=LIMIT_SECONDS)
            finally:
                family = list(family_of(driver.pid))
                if driver.poll() is None:
                    driver.kill()
        killed = killed or code == -signal.SIGKILL
        output = self.log.read_text()
        # Ray ends a driver whose own node is gone, with a code of its own.
        allowed = (2, -signal.SIGKILL, *([1] if kill and kill.victim == "node" else []))
        if not (code == 0 or (killed and code in allowed)) or "Traceback" in output:
            raise AssertionError(f"{kill or 'nobody'} was killed, and the study ended with {code}:\n{output[-3000:]}")
        _wait_for_the_end_of(family)
        self.warnings += [line for line in output.splitlines() if line.startswith("warning:")]
        return code == 0, killed

    def _kill(self, driver: psutil.Process, kill: Kill) -> bool:
        """Wait until this start has published something in the stage, and so many seconds more; then kill."""
        started = time.time()
        while not self._published_since(started, kill.stage):
            if not driver.is_running() or driver.status() == psutil.STATUS_ZOMBIE:
                return False
            time.sleep(0.05)
        time.sleep(kill.at)
        try:
            everybody = [driver, *driver.children(recursive=True)]
            victims = everybody
            if kill.victim == "node":
                victims = [one for one in everybody if one.name() == "raylet"]
            for victim in victims:
                victim.kill()
        except psutil.NoSuchProcess:
            return False
        return bool(victims)

    def _published_since(self, moment: float, stage: Stage) -> bool:
        manifests = (path for place in stage for path in (self.run_folder / place).rglob("manifest.json"))
        try:
            return any(path.stat().st_mtime > moment for path in manifests)
        except FileNotFoundError:  # just replaced by another
            return False

    def operations(self) -> list[str]:
        """Paths of the driver's file operations in its last run."""
        return (self.state / "operations").read_text().splitlines()

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables of the run folder."""
        return comparable_tables(self.run_folder)


def comparable_tables(run_folder: Location) -> dict[str, pd.DataFrame]:
    """All tables of a study in an order of their own, without the columns of wall-clock times."""
    return {
        name: read_table(run_folder / "tables", name)
        .drop(columns="seconds" if name in ("trials", "epochs") else [])
        .sort_values(keys, ignore_index=True)
        for name, keys in KEYS.items()
    }


def family_of(pid: int) -> Iterator[psutil.Process]:
    """Every living process of the session that this one leads or led: Ray starts its own in it."""
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue


def _wait_for_the_end_of(family: Sequence[psutil.Process]) -> None:
    """Ray's processes end with the driver; what does not is a leak.

    Ray's agents report the end of the node to the server that ended with it, and wait a minute for its answer.
    """
    for process in family:
        with suppress(psutil.NoSuchProcess):
            if process.name() in ("ray::DashboardAgent", "ray::RuntimeEnvAgent"):
                process.kill()
    _, alive = psutil.wait_procs(family, timeout=90)
    if alive:
        names = Counter(process.name() for process in alive)
        for process in alive:
            process.kill()
        raise AssertionError(f"processes outlived their driver by 90 seconds: {dict(names)}")


def differences(lived: dict[str, pd.DataFrame], died: dict[str, pd.DataFrame]) -> dict[str, Counter[str]]:
    """Rows of each table that are lost, doubled, added or different, value for value and bit for bit."""
    found = {}
    for name, keys in KEYS.items():
        left, right = lived[name], died[name]
        counts: Counter[str] = Counter()
        counts["doubled"] = int(right.duplicated(keys).sum())
        left_keys, right_keys = (set(map(tuple, one[keys].astype(str).to_numpy())) for one in (left, right))
        counts["lost"], counts["added"] = len(left_keys - right_keys), len(right_keys - left_keys)
        if not (counts["doubled"] or counts["lost"] or counts["added"]):
            equal = [_same(a, b) for a, b in zip(left.to_dict("records"), right.to_dict("records"), strict=True)]
            counts["different"] = equal.count(False)
        found[name] = counts
    assert set(found) == set(SCHEMAS)
    return found


def different_tables(lived: dict[str, pd.DataFrame], run_folder: Location) -> dict[str, dict[str, int]]:
    """What :func:`differences` finds in a run folder; tables that are the same are left out."""
    found = differences(lived, comparable_tables(run_folder))
    return {name: dict(+counts) for name, counts in found.items() if +counts}


def asha_differences(lived: dict[str, pd.DataFrame], died: dict[str, pd.DataFrame]) -> dict[str, Counter[str]]:
    """What holds whichever trials ASHA stopped: every backbone has its row, every curve is whole, and the epochs that
    both studies trained are the same."""
    counts: Counter[str] = Counter()
    planned, there = ({*one["trials"].query("phase == 'backbones'")["trial_id"]} for one in (lived, died))
    counts["lost"], counts["added"] = len(planned - there), len(there - planned)
    counts["doubled"] = sum(int(died[name].duplicated(keys).sum()) for name, keys in KEYS.items())
    curves = died["epochs"].groupby("trial_id")["epoch"].agg(list)
    done = died["trials"].set_index("trial_id")["epochs_done"].dropna()
    counts["lost"] += sum(curves.get(key) != list(range(1, int(last) + 1)) for key, last in done.items())
    rows = [{(row["trial_id"], row["epoch"]): row for row in one["epochs"].to_dict("records")} for one in (lived, died)]
    common = set(rows[0]) & set(rows[1])
    assert common, "nothing was compared"
    counts["different"] = sum(not _same(rows[0][key], rows[1][key]) for key in common)
    return {"trials and epochs": counts}


def _same(left: dict[Any, Any], right: dict[Any, Any]) -> bool:
    return {key: repr(value) for key, value in left.items()} == {key: repr(value) for key, value in right.items()}


def plan(rng: random.Random, operations: Sequence[str]) -> list[list[Kill]]:
    """The kills of one campaign, start by start, in the order of a study's stages: each is passed but once.

    Args:
        rng: decides who and when.
        operations: of the driver of a study that lived.
    """

    def suddenly(stage: Stage, seconds: float) -> Kill:
        return Kill(rng.choice(["machine", "node"]), round(rng.uniform(0, seconds), 2), stage)

    def driver(stage: Stage, share: float) -> Kill:
        return Kill("driver", rng.randint(1, max(1, round(share * count(operations, stage)))), stage)

    return [
        [driver(ANY, 0.05)],
        [suddenly(TRAINING, 4), Kill("worker", rng.randint(1, 12), TRAINING)],
        [suddenly(TRAINING, 4)],
        [suddenly(TRACING, 1), Kill("worker", rng.randint(1, 4), TRACING)],
        [driver(SEARCH, 0.3)],
        [driver(SEARCH, 0.3)],
        [driver(TABLES, 1)],
    ]


def count(operations: Sequence[str], stage: Stage) -> int:
    """How many of the operations belong to the stage."""
    return sum(path.startswith(stage) for path in operations)


def strike(mortal: MortalStudy, starts: Sequence[Sequence[Kill]], tell: Any = print) -> bool:
    """Run a study through some kills; returns whether the study came to its end all the same."""
    done = False
    for kill, *others in starts:
        worker = others[0] if others else None
        done, killed = mortal.run(kill, worker=worker)
        if worker:
            tell(f"  {worker}: {'killed' if mortal.worker_died() else 'came too late'}")
        tell(f"  {kill}: {'killed' if killed else 'came too late'}{', the study ended all the same' if done else ''}")
        if done:  # it cannot be killed any more
            break
    return done


def campaign(folder: Path, study: dict[str, Any], starts: Sequence[Sequence[Kill]], tell: Any = print) -> MortalStudy:
    """Run a study through some kills, and then to its end."""
    mortal = MortalStudy(folder, study)
    if not strike(mortal, starts, tell):
        done, _ = mortal.run()
        assert done
    return mortal


def main() -> None:
    """The long run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--asha", action="store_true", help="stop trials asynchronously; then only curves are compared")
    options = parser.parse_args()
    study, compare = STUDY, differences
    if options.asha:
        scheduler = {"kind": "asha", "first_rung": 1, "reduction": 2}
        study, compare = {**STUDY, "backbones": {**STUDY["backbones"], "scheduler": scheduler}}, asha_differences
    rng = random.Random(options.seed)
    totals: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        reference = MortalStudy(Path(temporary) / "lived", study)
        started = time.monotonic()
        assert reference.run() == (True, False)
        print(f"a study that lived: {time.monotonic() - started:.0f} s")
        lived, operations = reference.tables(), reference.operations()
        struck = number = 0
        while struck < options.kills:
            number += 1
            told: list[str] = []
            died = campaign(Path(temporary) / f"died-{number}", study, plan(rng, operations), told.append)
            struck += sum(": killed" in line for line in told)
            found = compare(lived, died.tables())
            total: Counter[str] = sum(found.values(), Counter())
            totals += total
            print(f"campaign {number}, {struck} kills so far:", *told, f"  warnings: {died.warnings}", sep="\n")
            print(f"  rows {'all the same' if not total else dict(total)}", flush=True)
            if total:
                print({name: dict(counts) for name, counts in found.items() if +counts})
        rows = sum(len(table) for table in lived.values())
        summary = ", ".join(f"{totals[what]} {what}" for what in ("lost", "doubled", "added", "different"))
        print(f"seed {options.seed}: {struck} kills in {number} studies of {rows} rows each: {summary}")
    sys.exit(1 if totals else 0)


if __name__ == "__main__":
    main()
