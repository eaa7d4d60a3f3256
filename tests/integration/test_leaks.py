"""Many trials in one process leave nothing behind: no open files, no processes, no GPU memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
import pytest
import torch
from support.studies import tiny_study

from study.data.loading import load_dataset
from study.execution.executor import TrainingContext
from study.execution.ray.executor import RayExecutor
from study.progress import Reporter, Task
from study.run.phase_1 import run_phase
from study.run.plan import resolve_names
from study.run.trials import draw_trials

FEW = 3
"""More than so many files or processes is growth: Ray opens and ends some of its own now and then."""


@dataclass(frozen=True)
class Sample:
    """What is open after so many trials."""

    trials: int
    driver_files: int
    worker_files: int
    """Of the worker with most."""
    processes: int
    gpu_bytes: int


def look(trials: int) -> Sample:
    driver, files, family = psutil.Process(), [], psutil.Process().children(recursive=True)
    for process in family:
        with suppress(psutil.Error):
            if process.name().startswith("ray::"):
                files.append(process.num_fds())
    free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (0, 0)
    return Sample(trials, driver.num_fds(), max(files), len(family), total - free)


class Watch(Reporter):
    """Looks after each trial of one epoch."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.samples: list[Sample] = []

    @contextmanager
    def task(self, name: str, total: float) -> Iterator[Task]:
        yield self

    def advance(self, done: float, text: str = "") -> None:
        self.samples.append(look(int(done)))


@pytest.mark.parametrize("trials", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_nothing_grows_with_the_number_of_trials(ray_instance: None, tmp_path: Path, trials: int) -> None:
    """Real training of the smallest network, a quarter of the trials to settle."""
    spec = tiny_study(
        data={"limit": 60},
        backbones={"trials": trials, "epochs": 1, "scheduler": {"kind": "none"}, "width": 0.03},
        resources={"gpus_per_trial": 0.5 if torch.cuda.is_available() else 0},
    )
    (settings,), *_ = resolve_names(spec)
    watch = Watch()
    dataset = load_dataset(settings, tmp_path, download=False)
    context = TrainingContext(checkpoints=tmp_path / "checkpoints", dataset=dataset, reporter=watch)
    plans = draw_trials(spec).backbones_on(dataset.info.digest)
    with closing(RayExecutor(spec.resources)) as executor:
        records = run_phase(plans, spec.backbones, context, executor)
    assert {record.status for record in records} == {"finished"} and len(records) == trials
    window = trials // 10
    early = [sample for sample in watch.samples if trials // 4 - window < sample.trials <= trials // 4]
    late = [sample for sample in watch.samples if trials - window < sample.trials]
    for what in ("driver_files", "worker_files", "processes"):
        before, after = (median(getattr(sample, what) for sample in samples) for samples in (early, late))
        assert after <= before + FEW, (what, watch.samples)
    assert late[-1].gpu_bytes <= max(sample.gpu_bytes for sample in early) + 64 * 2**20
