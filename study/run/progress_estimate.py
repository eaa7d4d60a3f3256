"""The work of phase 1 that is done and that is left, with an estimate of the time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from search_spaces.settings import HEAD_MODES
from search_spaces.spec import ResourcesSpec
from study.arrays import core_count
from study.run.trials import StudyTrials, epochs_of


@dataclass(frozen=True, kw_only=True)
class PhaseOutline:
    """One half of phase 1 on one data set."""

    data: str
    phase: str
    trials: int
    """The number of trials that the study asks for."""
    started: int
    failed: int
    epochs: int
    """The epochs of all trials under the scheduler, at most: patience may end trials earlier."""
    epochs_done: int
    seconds_per_epoch: float | None
    """The median over the measured trials; None before the first epoch."""

    @property
    def epochs_left(self) -> int:
        """The largest number of epochs that may be left."""
        return max(0, self.epochs - self.epochs_done)

    @property
    def seconds_left(self) -> float | None:
        """The seconds that the trials need one after the other; None where no epoch was measured."""
        if not self.epochs_left:
            return 0.0
        return None if self.seconds_per_epoch is None else self.epochs_left * self.seconds_per_epoch

    def plain(self) -> dict[str, Any]:
        """The outline as values that JSON can hold."""
        return {**asdict(self), "epochs_left": self.epochs_left, "seconds_left": self.seconds_left}


def outline(
    drawn: StudyTrials,
    names: Sequence[str],
    trials: Sequence[Mapping[str, Any]],
    measured: Mapping[tuple[str, str], float] | None = None,
) -> list[PhaseOutline]:
    """The halves of phase 1 on each data set.

    Args:
        drawn: the trials of the study.
        names: the names of the data sets of the study.
        trials: the trials that were started: ``data``, ``mode``, ``status``, ``epochs``, ``seconds``.
        measured: (data, phase) -> seconds of an epoch, used where no trial has a measured epoch.
    """
    phases = []
    for data in names:
        backbones = len(drawn.backbones.plans)
        exits = min(drawn.backbones.keep, backbones) * len(drawn.exits.plans)
        for phase, half, count in (("backbones", drawn.backbones, backbones), ("exits", drawn.exits, exits)):
            own = [one for one in trials if one["data"] == data and (one["mode"] in HEAD_MODES) == (phase == "exits")]
            seconds = [one["seconds"] / one["epochs"] for one in own if one["epochs"] and one["seconds"]]
            pretrained = phase == "backbones" and drawn.pretrained
            phases.append(
                PhaseOutline(
                    data=data,
                    phase=phase,
                    trials=count,
                    started=len(own),
                    failed=sum(one["status"] == "failed" for one in own),
                    epochs=0 if pretrained else epochs_of(half.section, count, keep=half.keep),
                    epochs_done=sum(one["epochs"] for one in own),
                    seconds_per_epoch=(statistics.median(seconds) if seconds else (measured or {}).get((data, phase))),
                )
            )
    return phases


def slots_here(resources: ResourcesSpec) -> int:
    """How many trials run at once on this machine."""
    fitting = core_count() // resources.cpus_per_trial
    if resources.gpus_per_trial:
        import torch  # the import is slow, and a study on CPUs does not need torch here

        fitting = min(fitting, torch.cuda.device_count() // resources.gpus_per_trial)
    return max(1, int(fitting))


def seconds_left(phases: Sequence[PhaseOutline], slots: int) -> float | None:
    """The seconds left of phase 1 with ``slots`` trials at once; None where a phase with work left was never measured.

    Traces, the search and the front are left out: they take seconds to minutes.
    """
    parts = [phase.seconds_left for phase in phases]
    if any(part is None for part in parts):
        return None
    total = 0.0
    for phase, part in zip(phases, parts, strict=True):
        total += (part or 0.0) / max(1, min(slots, phase.trials))
    return total


def span(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{math.ceil(seconds)} s"
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes / 60:.1f} h"
