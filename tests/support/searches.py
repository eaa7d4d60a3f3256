"""Small searched networks, and searches that are killed."""

import numpy as np
import pandas as pd
import pytest

from results.parts import read_table
from search_spaces.spec import OperatingPointsSpec, parse_space
from study import Costs
from study.checkpoints.description import WeightsId
from study.progress import Reporter
from study.search import optuna_search as module
from study.search.optuna_search import search
from study.search.traced_network import TracedNetwork
from study.traces.trace import SplitLogits


class Killed(BaseException):
    """What no program catches."""


def split(exits: int, seed: int, count: int = 40, classes: int = 4) -> SplitLogits:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, exits + 1, classes)) + 0.3
    strength = np.linspace(0.5, 2.5, exits + 1)
    logits[np.arange(count), :, labels] += strength
    return SplitLogits(logits.astype(np.float32), labels)


def traced(name: str, exits: int, seed: int = 0, **changed) -> TracedNetwork:
    segments, heads = np.arange(1.0, exits + 2), np.full(exits, 0.25)
    costs = Costs(
        segment_flops=segments,
        head_flops=heads,
        engine_step_flops=0.01,
        segment_energy=segments[::-1] / 7,
        head_energy=heads / 5,
        engine_step_energy=0.001,
        energy_source="modelled:test",
    )
    parts = {"calibration": split(exits, seed + 1), "validation": split(exits, seed + 2), **changed}
    return TracedNetwork(WeightsId(name, "w"), costs, **parts)


ONE = [traced("one", 5)]
TWO = [traced("shallow", 4), traced("deep", 6, seed=10)]
ALL_POLICIES = "[predictive, hierarchical, placed, static, classic]"


def run(chosen: OperatingPointsSpec, networks, tables, *, seed: int = 0, name: str = "across") -> pd.DataFrame:
    search(chosen, networks, tables, seed=seed, name=name, reporter=Reporter(quiet=True))
    return read_table(tables, "operating_points")


def run_killed(chosen, networks, tables, monkeypatch, after: int) -> None:
    """Die at the start of writing a batch, when ``after`` batches of this call are written."""
    real, written = module.write_part, []

    def write_part(*args):
        if len(written) == after:
            raise Killed
        written.append(args)
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_part", write_part)
        with pytest.raises(Killed):
            run(chosen, networks, tables)


def parse_policy(text: str):
    return parse_space(f"name: x\noperating_points: {{policy: {text}}}", "test").operating_points.policy
