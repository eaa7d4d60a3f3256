"""What a trial will compute, and the name that follows from it. Reading a plan needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from study.checkpoints.description import WeightsId, trial_id
from study.networks.settings import NetworkSettings
from study.training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """What a trial will compute."""

    phase: str
    network: NetworkSettings
    training: TrainingSettings
    data_digest: str
    parent: WeightsId | None = None
    """The backbone that exit heads are trained on."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The values that the search chose, for the table."""

    @property
    def trial_id(self) -> str:
        """The trial's name.

        Raises:
            ValueError: the precision is ``auto``. Two machines could mean two precisions by it.
        """
        if self.training.precision == "auto":
            raise ValueError("the precision auto must be resolved before a trial is named")
        return trial_id(self.network, self.training, self.data_digest, self.parent)
