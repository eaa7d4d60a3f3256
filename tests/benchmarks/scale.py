"""What a study of many trials costs besides training: thousands of trials of phase 1, tens of thousands of phase 2.

    python tests/benchmarks/scale.py                            # 2,000 trials, 20,000 operating points
    python tests/benchmarks/scale.py --trials 500 --points 5000

Training is trivial: a trial of phase 1 writes the checkpoint of one epoch and is done. What is left is Ray Tune's time
and ours. Figures are printed for each quarter of the trials: what grows with their number grows from one to the next.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
from ray import tune
from report import circumstances, print_circumstances, print_table

from results.parts import part_count, read_table
from search_spaces.spec import validate_space
from study import Costs
from study.checkpoints.description import FORMAT_VERSION
from study.execution.executor import PhaseProgress, TrainingContext
from study.execution.ray import executor
from study.execution.ray.executor import RayExecutor
from study.execution.trial_plan import TrialPlan
from study.progress import Reporter
from study.run.folder import Provenance
from study.run.phase_1 import run_phase, write_trials
from study.run.trials import draw_trials
from study.search import optuna_search as operating_points
from study.search.operating_point import OperatingPoint
from study.search.optuna_search import search
from study.search.traced_network import TracedNetwork
from study.storage.publish import publish
from study.storage.versions import versions
from study.traces.trace import SplitLogits

QUARTERS = 4


def megabytes() -> float:
    """Of memory that this process holds."""
    return psutil.Process().memory_info().rss / 1e6


class Stopwatch:
    """Seconds spent inside some functions, by name."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def watch(self, owner: Any, name: str, label: str) -> None:
        """Count the seconds of a function from now on."""
        real = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return real(*args, **kwargs)
            finally:
                self.seconds[label] += time.perf_counter() - start

        setattr(owner, name, timed)


def phase_1(trials: int) -> list[dict[str, Any]]:
    """Train trivially, and tell each quarter's seconds and what the driver holds after it."""
    spec = validate_space(
        {"name": "many", "backbones": {"trials": trials, "epochs": 1, "learning_rate": {"low": 1e-5, "high": 1e-2}}},
        "x",
    )
    plans = draw_trials(spec).backbones_on("digest")
    made_by = versions()

    def trivial(plan: TrialPlan, dataset: Any, checkpoints: Path, *others: Any) -> None:
        seed = int(plan.trial_id, 16)
        epoch = {"epoch": 1, "learning_rate": 0.1, "train_loss": 1.0, "validation_loss": 1.0, "seconds": 0.01}
        score = seed % 1000 / 1000
        description = {
            "format_version": FORMAT_VERSION,
            "network": asdict(plan.network),
            "training": asdict(plan.training),
            "data": INFO,
            "history": [{**epoch, "classifier_accuracy": score, "exit_accuracies": [], "score": score}],
            "parent": None,
            "versions": made_by,
            "made_by": [[1, made_by]],
        }
        files = {"weights.safetensors": b"\0" * 1000, "checkpoint.json": json.dumps(description).encode()}
        for name in ("best", "last"):
            publish(checkpoints / plan.trial_id / name, files)
        tune.report({"epoch": 1, "score": score})

    told: list[tuple[float, float]] = []
    advance = PhaseProgress.advance

    def listen(self: Any, *args: Any, **kwargs: Any) -> None:
        advance(self, *args, **kwargs)
        told.append((time.perf_counter(), megabytes()))

    PhaseProgress.advance = listen
    executor._train = trivial
    watch = Stopwatch()
    watch.watch(RayExecutor, "train", "tune")
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Path(folder) / "checkpoints"
        context = TrainingContext(checkpoints=checkpoints, dataset=None, reporter=Reporter(quiet=True))  # type: ignore[arg-type]
        pool = RayExecutor(spec.resources)
        start = time.perf_counter()
        records = run_phase(plans, spec.backbones, context, pool)
        write_trials(Path(folder) / "tables", records, Provenance(spec.plain(), "digest"), data="digits")
        own = time.perf_counter() - start - watch.seconds["tune"]
        again = time.perf_counter()
        run_phase(plans, spec.backbones, context, pool)
        again = time.perf_counter() - again
        assert len(read_table(Path(folder) / "tables", "trials")) == trials
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
    marks = [told[round(quarter * (trials - 1) / QUARTERS)] for quarter in range(QUARTERS + 1)]
    rows = [
        {
            "trials": f"{round(trials * n / QUARTERS):,} to {round(trials * (n + 1) / QUARTERS):,}",
            "ms a trial": 1e3 * (after[0] - before[0]) / (trials / QUARTERS),
            "MB of the driver": after[1],
        }
        for n, (before, after) in enumerate(pairwise(marks))
    ]
    print_table(f"phase 1, {trials:,} trials", rows)
    print(
        f"  our own part {1e3 * own / trials:.2f} ms a trial; a start that finds all done {again:.1f} s; "
        f"{len(files) / trials:.1f} files and {size / trials / 1e3:.1f} kB a trial"
    )
    return rows


INFO = {
    **{"name": "digits", "image_size": 32, "channels": 1, "class_names": ["0", "1"], "mean": [0.5], "std": [0.5]},
    **{"flip": False, "crop_padding": 4, "digest": "digest", "settings": {}},
}


def phase_2(points: int, sampler: str) -> list[dict[str, Any]]:
    """Search a synthetic trace, and tell for each quarter whose time a trial took."""
    exits, classes, count = 8, 10, 500
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, exits + 1, classes)).astype(np.float32)
    logits[np.arange(count), :, labels] += np.linspace(0.5, 2.5, exits + 1)
    splits = [SplitLogits(logits, labels)] * 2
    segments, heads = np.linspace(1.0, 2.0, exits + 1), np.full(exits, 0.05)
    costs = Costs(segment_flops=segments, head_flops=heads, engine_step_flops=0.01)
    networks = [TracedNetwork("one@w", costs, *splits)]
    section = {"trials": points, "sampler": sampler, "batch": 100, "objectives": ["accuracy", "flops"]}
    spec = validate_space({"name": "many", "operating_points": section}, "x").operating_points
    watch, marks = Stopwatch(), []
    watch.watch(operating_points, "_ask", "Optuna")
    watch.watch(optuna.Study, "tell", "Optuna")
    watch.watch(optuna.Trial, "_suggest", "Optuna")  # where samplers work
    watch.watch(OperatingPoint, "evaluate", "replay")
    watch.watch(operating_points, "_exact_hypervolume", "once")
    watch.watch(operating_points, "export_journal", "once")

    class Marks(Reporter):
        """Notes time and memory at each quarter."""

        def advance(self, done: float, text: str = "") -> None:
            if done in wanted:
                marks.append((time.perf_counter(), dict(watch.seconds), megabytes()))

        def task(self, name: str, total: float) -> Any:
            return contextlib.nullcontext(self)

    wanted = {points * n // QUARTERS for n in range(1, QUARTERS + 1)}
    with tempfile.TemporaryDirectory() as folder:
        tables = Path(folder) / "tables"
        before = megabytes()
        marks.append((time.perf_counter(), dict(watch.seconds), before))
        search(spec, networks, tables, seed=0, name="x", reporter=Marks(quiet=True))
        start = time.perf_counter()
        table = read_table(tables, "operating_points")
        reading = time.perf_counter() - start
        assert len(table) == points
        size = sum(path.stat().st_size for path in tables.rglob("*.parquet"))
        parts = part_count(tables, "operating_points")
    rows = []
    for n, (first, last) in enumerate(pairwise(marks)):
        each = 1e3 / (points / QUARTERS)
        spent = {label: last[1].get(label, 0) - first[1].get(label, 0) for label in ("Optuna", "replay", "once")}
        own = last[0] - first[0] - sum(spent.values())
        rows.append(
            {
                "points": f"{points * n // QUARTERS:,} to {points * (n + 1) // QUARTERS:,}",
                "ours, ms": own * each,
                "replay, ms": spent["replay"] * each,
                "Optuna, ms": spent["Optuna"] * each,
                "MB more": last[2] - first[2],
            }
        )
    print_table(f"phase 2, {points:,} operating points, sampler {sampler}", rows)
    print(f"  the table: {parts} parts, {size / points:.0f} bytes a row, read in {reading:.2f} s")
    print(f"  Optuna's own memory: {_optuna_memory(points):.2f} kB a trial")
    return rows


def _optuna_memory(points: int) -> float:
    """Kilobytes that Optuna keeps of a trial like these, by itself."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    tracemalloc.start()
    for _ in range(min(points, 5000)):
        trial = study.ask()
        values = [trial.suggest_float("beta_quantile", 0, 1), float(trial.suggest_int("start_layer", 1, 8))]
        study.tell(trial, values)
    return tracemalloc.get_traced_memory()[0] / 1e3 / min(points, 5000)


def main() -> None:
    """Each part in a process of its own, so that memory is its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--tpe-points", type=int, default=400)
    parser.add_argument("--part", choices=("trials", "random", "tpe"), help="this one alone, in this process")
    options = parser.parse_args()
    if options.part == "trials":
        phase_1(options.trials)
    elif options.part:
        phase_2(options.points if options.part == "random" else options.tpe_points, options.part)
    else:
        print_circumstances(circumstances())
        for part in ("trials", "random", "tpe"):
            sys.stdout.flush()
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--part", part], check=True)


if __name__ == "__main__":
    main()
