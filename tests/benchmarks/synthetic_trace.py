"""Traces of random logits, with what is done to them. Imports no torch: a process of its own starts fast and small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from study.arrays import Floats
from study.costs.costs import Costs
from study.fronts.exact import exact_front
from study.fronts.grid import replay_grid
from study.fronts.sweep import Sweep, changes, changes_by_walking
from study.policies.decision_table import table_for
from study.policies.policies import Predictive
from study.policies.replay import Tally, Walk, tally, walk_samples
from study.traces.trace import Trace

RULE = Predictive(beta=1.0)
MEASURES = ("flops", "energy")


@dataclass(frozen=True, eq=False)
class Subject:
    """A trace and what its network costs."""

    trace: Trace
    costs: Costs

    def __str__(self) -> str:
        samples, columns, classes = self.trace.logits.shape
        return f"{samples:,} samples x {columns - 1} exits x {classes} classes"

    def betas(self, quantiles: float | Floats) -> Floats:
        """Quantiles of the criterion's ratios."""
        return np.asarray(np.quantile(table_for(self.trace, RULE).stop, quantiles))

    def policy(self, quantile: float) -> Predictive:
        """From exit 1 on, with a quantile of the ratios as beta."""
        return Predictive(beta=float(self.betas(quantile)), start_layer=1)

    def tally(self, policy: Predictive) -> tuple[Tally, list[float]]:
        """One operating point: the walk, counted, and the mean of each measure."""
        counted = tally(self.trace, policy)
        return counted, [self.costs.mean(counted, measure) for measure in MEASURES]

    def walk_plainly(self, policy: Predictive) -> Walk:
        """What `replay` gives, in array operations."""
        everyone = np.arange(len(self.trace.labels))
        table = table_for(self.trace, policy).up_to(policy.max_jump)
        return walk_samples(self.trace, table, policy, everyone, np.full_like(everyone, policy.start_layer))

    def grid(self, betas: Floats) -> pd.DataFrame:
        """Those betas from every start layer."""
        return replay_grid(self.trace, self.costs, betas.tolist())

    def front(self, objectives: Sequence[str] = ("accuracy", "flops")) -> pd.DataFrame:
        """All betas from every start layer."""
        return exact_front(self.trace, self.costs, objectives=objectives)

    def sweep(self, measures: Sequence[str] = ("flops",)) -> int:
        """List, sort and add up the distinct operating points of all start layers; how many there are."""
        groups = changes(Sweep(self.trace, self.costs, RULE), measures)
        return sum(len(found.add_up().right) for group in groups for found in group)

    def sweep_plainly(self, measures: Sequence[str] = ("flops",)) -> int:
        """The same, listed in array operations."""
        sweep, layers = Sweep(self.trace, self.costs, RULE), range(1, self.trace.exit_count + 1)
        return sum(len(changes_by_walking(sweep, measures, layer).add_up().right) for layer in layers)


@lru_cache(maxsize=1)
def synthetic(samples: int, exits: int, classes: int = 10) -> Subject:
    """Deeper exits know the label better, and some images are easier than others; ties are rare accidents.

    The thresholds fall, as if later exits were surer of themselves: each beta has its own stretch of exits, jumps of
    every length occur, and a sample has some 25 operating points for each of 20 start layers.
    """
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((samples, exits + 1, classes), dtype=np.float32)
    labels = generator.integers(0, classes, samples)
    ease = generator.uniform(0.5, 1.5, (samples, 1)).astype(np.float32)
    logits[np.arange(samples), :, labels] += ease * np.linspace(0.5, 4.0, exits + 1, dtype=np.float32)
    costs = Costs(
        segment_flops=generator.uniform(1e7, 8e7, exits + 1),
        head_flops=generator.uniform(2e5, 2e6, exits),
        engine_step_flops=20.0,
        segment_energy=generator.uniform(1e-4, 1e-3, exits + 1),
        head_energy=generator.uniform(2e-6, 2e-5, exits),
        engine_step_energy=1e-9,
        energy_source="modelled:drawn",
    )
    return Subject(Trace(logits, labels, np.geomspace(4.0, 1.0, exits)), costs)
