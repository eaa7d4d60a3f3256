"""Trials that train nothing and write down who ran beside them: ``python gpu_sharing.py ADDRESS FOLDER GPUS TOGETHER``.

Each waits until so many trials run ``TOGETHER`` as shall, and a moment more for one too many.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import ray

from search_spaces.spec import validate_space
from study.execution.executor import TrainingContext
from study.execution.ray import executor
from study.execution.ray.executor import RayExecutor
from study.execution.trial_plan import TrialPlan
from study.progress import Reporter
from study.run.trials import draw_trials

TRIALS = 4
LIMIT_SECONDS = 300.0


def train_nothing(plan: TrialPlan, dataset: object, folder: Path, *others: object) -> None:
    """In the place of the training; a function of this script, so that it travels to the workers as it is."""
    started = time.time()
    (folder / f"{plan.trial_id}.started").touch()
    while time.time() < started + LIMIT_SECONDS:
        ended = len(list(folder.glob("*.json")))
        running = len(list(folder.glob("*.started"))) - ended
        if running >= TOGETHER or ended == TRIALS - 1:
            break
        time.sleep(0.05)
    time.sleep(2)
    assigned = ray.get_runtime_context().get_assigned_resources()
    record = {"gpus": ray.get_gpu_ids(), "share": assigned.get("GPU"), "started": started, "ended": time.time()}
    (folder / f"{plan.trial_id}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    address, folder, gpus, TOGETHER = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    folder.mkdir()
    spec = validate_space(
        {
            "name": "sharing",
            "backbones": {"trials": TRIALS, "learning_rate": {"low": 0.001, "high": 0.01}},
            "resources": {"cpus_per_trial": 0.1, "gpus_per_trial": gpus},
        },
        "sharing",
    )
    executor._train = train_nothing
    context = TrainingContext(checkpoints=folder, dataset=None, reporter=Reporter(quiet=True))
    pool = RayExecutor(spec.resources, address)
    failures = pool.train(draw_trials(spec).backbones_on("no images"), 1, context, name="sharing")
    pool.close()
    assert not failures, failures
