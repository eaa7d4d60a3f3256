"""The state of a search of phase 2: the Optuna study in memory, and what its trials have found."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from results.schemas import CONSTRAINTS, METRICS
from search_spaces.spec import OperatingPointsSpec
from study.errors import UserError
from study.search.hypervolume import HypervolumeIndicator, on_plateau
from study.search.operating_point import point_of
from study.search.space import judge, known_value
from study.search.suggest import make_sampler, suggest
from study.search.traced_network import TracedNetwork, reference_network
from study.storage.strict_json import dumps

_STATEFUL = ("qmc", "nsga2", "nsga3")
"""Samplers with a state of their own: QMC counts its draws, NSGA keeps the parents of each generation."""
_REMEMBERED = 4096
"""Trials whose metrics are kept in memory."""


class SearchState:
    """An Optuna study, and what its trials have found. Of each trial only its point is kept for the whole search.

    Trials are rows of the table ``operating_points``: column -> value.
    """

    def __init__(self, spec: OperatingPointsSpec, networks: Sequence[TracedNetwork], seed: int, name: str) -> None:
        self.spec, self.networks, self.seed, self.name = spec, networks, seed, name
        maximize = {"accuracy": StudyDirection.MAXIMIZE}
        directions = [maximize.get(objective, StudyDirection.MINIMIZE) for objective in spec.objectives]
        # The QMC sampler counts its draws: one sampler, with the seed of the study, draws all trials.
        self.study = optuna.create_study(directions=directions, sampler=make_sampler(spec.sampler, seed))
        self.indicator = HypervolumeIndicator.of(spec.objectives, networks)
        self.done = 0
        self.ratio: float | None = None
        self._reference_accuracy = reference_network(networks).classic_accuracy
        self._known: dict[object, int] = {}
        """Point -> number of the first trial of the point."""
        self._judged: dict[int, dict[str, Any]] = {}
        """Number of a trial -> metrics of its point, for the latest trials: a repeat of the point is not replayed."""
        self._best_accuracy = 0.0
        self._volumes: list[float] = []
        """The hypervolume after each whole batch."""
        self._front = self.indicator.values([])

    def replay_stored(self, batch: Sequence[Mapping[str, Any]]) -> None:
        """Tell the study the trials of a stored batch."""
        for row in batch:
            self._tell_again(row)
            self._add(row)
        self._update_front(batch)
        self._end_batch(batch[-1]["hypervolume"], batch[-1]["hypervolume_ratio"])

    def ask_new(self, stored: Collection[int], truth: float | None) -> list[dict[str, Any]]:
        """Ask for the trials of one batch, up to the next stored trial, and replay their points.

        Args:
            stored: numbers of the stored trials.
            truth: hypervolume of the exact front; None where it is not known.
        """
        batch: list[dict[str, Any]] = []
        while len(batch) < self.spec.batch and self.done < self.spec.trials and self.done not in stored:
            batch.append(self._ask_one())
            self._add(batch[-1])
        self._update_front(batch)
        volume = self.indicator.of_values(self._front)
        ratio = volume / truth if truth else None
        self._end_batch(volume, ratio)
        return [{**row, "hypervolume": volume, "hypervolume_ratio": ratio} for row in batch]

    def _ask_one(self) -> dict[str, Any]:
        """Ask for one trial, replay its point and tell the study the result."""
        trial, spec = self._next_trial(self.done), self.spec
        row = {"number": self.done, "search": self.name, "sampler": spec.sampler, "batch_size": spec.batch_size}
        try:
            point = suggest(trial, self.networks, spec)
            repeat_of = self._known.get(point.key)
            row |= {**point.settings(), "repeat_of": repeat_of}
            judged = self._judged.get(-1 if repeat_of is None else repeat_of)
            judged = judged or judge(point, spec.constraints.limits, self._reference_accuracy)
            values = self._values(judged)
            if not np.isfinite(values).all():
                raise UserError(f"an objective is not finite: {dict(zip(spec.objectives, values, strict=True))}")
            row |= {"state": "COMPLETE", **judged}
        except UserError as error:
            row |= {"state": "FAIL", "error": str(error)}
        self._tell(trial, row)
        distributions = {key: distribution_to_json(one) for key, one in trial.distributions.items()}
        return row | {"params": dumps(trial.params), "distributions": dumps(distributions)}

    def _next_trial(self, number: int) -> optuna.Trial:
        """The next trial; the same one whether or not earlier trials were asked by this process."""
        if self.spec.sampler != "qmc":
            state = np.random.SeedSequence([self.seed, number]).generate_state(1)
            self.study.sampler = make_sampler(self.spec.sampler, int(state[0]))
        return self.study.ask()

    def _values(self, row: Mapping[str, Any]) -> list[float]:
        return [known_value(row, objective) for objective in self.spec.objectives]

    def _tell(self, trial: optuna.Trial, row: Mapping[str, Any]) -> None:
        if row["state"] == "FAIL":
            self.study.tell(trial, state=TrialState.FAIL)
            return
        for limit, exceeded in json.loads(row["constraints"]).items():
            trial.set_constraint(limit, exceeded)
        self.study.tell(trial, self._values(row))

    def _tell_again(self, row: Mapping[str, Any]) -> None:
        """Tell the study a stored trial.

        A sampler with a state of its own is asked for the trial again, without a replay, so that its state advances.
        For other samplers the stored trial is added.

        Raises:
            UserError: a sampler with a state of its own suggests other parameters than the stored ones.
        """
        params = json.loads(row["params"])
        if self.spec.sampler in _STATEFUL:
            trial = self._next_trial(row["number"])
            with contextlib.suppress(UserError):
                suggest(trial, self.networks, self.spec)
            if trial.params != params:
                raise UserError(
                    f"sampler {self.spec.sampler} does not repeat trial {row['number']} of the stored search, which "
                    "was made with other versions; remove the table operating_points to search again"
                )
            self._tell(trial, row)
            return
        complete = row["state"] == "COMPLETE"
        distributions = json.loads(row["distributions"]).items()
        self.study.add_trial(
            optuna.create_trial(
                state=TrialState.COMPLETE if complete else TrialState.FAIL,
                params=params,
                distributions={key: json_to_distribution(one) for key, one in distributions},
                values=self._values(row) if complete else None,
                constraints=json.loads(row["constraints"]) if complete else {},
            )
        )

    def _add(self, row: Mapping[str, Any]) -> None:
        """Count a trial, and remember its point."""
        if row["state"] == "COMPLETE":
            if row["repeat_of"] is None:
                self._known.setdefault(point_of(row, self.networks).key, row["number"])
                self._judged[row["number"]] = {name: row[name] for name in (*METRICS, *CONSTRAINTS)}
                if len(self._judged) > _REMEMBERED:
                    del self._judged[next(iter(self._judged))]
            self._best_accuracy = max(self._best_accuracy, row["accuracy"])
        self.done += 1

    def _update_front(self, batch: Sequence[Mapping[str, Any]]) -> None:
        values = self.indicator.values(row for row in batch if row.get("feasible"))
        self._front = self.indicator.update_front(self._front, values)

    def _end_batch(self, hypervolume: float, ratio: float | None) -> None:
        self.ratio = ratio
        if self.done % self.spec.batch == 0:
            self._volumes.append(hypervolume)

    def is_over(self) -> bool:
        """Whether no further trial is to be asked."""
        return is_over(self.spec, self.done, self.ratio, self._volumes)

    def text(self) -> str:
        """The state as a text for the progress display."""
        if not self._known:
            return "no point yet"
        share = "" if self.ratio is None else f", {self.ratio:.1%} of the exact front's hypervolume"
        return f"{len(self._known)} points, best validation accuracy {self._best_accuracy:.4f}{share}"


def is_over(spec: OperatingPointsSpec, done: int, ratio: float | None, volumes: Sequence[float]) -> bool:
    """Whether a search is over after ``done`` trials, with these hypervolumes after its whole batches."""
    if done >= spec.trials or (done and has_ratio(spec, ratio)):
        return True
    return spec.stop.plateau is not None and on_plateau(volumes, spec.stop.plateau)


def has_ratio(spec: OperatingPointsSpec, ratio: float | None) -> bool:
    """Whether the hypervolume ratio at which the study stops is reached."""
    wanted = spec.stop.hypervolume_ratio
    # Sums of the same costs in another order differ in their last bits.
    return wanted is not None and ratio is not None and ratio >= wanted - 1e-9
