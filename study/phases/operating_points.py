"""Phase 2: an Optuna search over inference settings, on replayed traces.

The truth is the table ``operating_points``, written in batches. Every start rebuilds the Optuna study in memory from
it, and each question is asked with a sampler seeded by (seed, number of the trial): a search that was interrupted goes
on as if it had not been. A half-done batch is asked again.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

from results.files import write_atomic
from results.tables import SCHEMAS, next_part, part_count, read_table, rows_of, write_part
from search_spaces.choices import Choice
from search_spaces.spec import OperatingPointsSpec
from study.errors import UserError
from study.phases.candidates import Candidate, OperatingPoint
from study.policies import Classic, Hierarchical, Placed, Policy, Predictive, Static
from study.progress import Task

TABLE = "operating_points"
COLUMNS = {
    "accuracy": "accuracy",
    "flops": "flops",
    "bitops": "bitops",
    "energy": "energy_joules",
    "latency_mean": "latency_mean_seconds",
    "latency_p50": "latency_p50_seconds",
    "latency_p99": "latency_p99_seconds",
    "memory": "memory_bytes",
}
"""Objective or constraint -> column of the tables."""


def search(
    spec: OperatingPointsSpec, candidates: Sequence[Candidate], tables: Path, *, seed: int, name: str, task: Task
) -> None:
    """Ask and tell until the table holds ``spec.trials`` trials of this search.

    Args:
        spec: what to search.
        candidates: the networks to choose among.
        tables: the run folder's ``tables``.
        seed: of the study.
        name: of this search, in the table.
        task: told the number of trials done.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = [
        StudyDirection.MAXIMIZE if objective == "accuracy" else StudyDirection.MINIMIZE for objective in spec.objectives
    ]
    study = optuna.create_study(directions=directions, sampler=make_sampler(spec.sampler, 0))
    rows = _stored_rows(tables, name)
    _rebuild(study, rows, spec, candidates, seed)
    known: dict[object, int] = {}
    for row in rows:
        if row["state"] == "COMPLETE":
            known.setdefault(point_of(row, candidates).key, int(row["number"]))
    by_number = {int(row["number"]): row for row in rows}
    journal = tables.parent / "optuna" / f"{name}.log"
    if rows:
        task.advance(len(rows), "already there")
    while len(by_number) < spec.trials:
        batch = []
        for number in range(len(by_number), min(len(by_number) + spec.batch, spec.trials)):
            row = _one_trial(study, spec, candidates, number, seed, name, known, by_number)
            by_number[number] = row
            batch.append(row)
        write_part(tables, TABLE, batch, next_part(tables, TABLE))
        complete = [row["accuracy"] for row in by_number.values() if row["state"] == "COMPLETE"]
        best = f"best validation accuracy {max(complete):.4f}" if complete else "no point yet"
        task.advance(len(by_number), f"{len(known)} points, {best}")
    if len(by_number) > len(rows) or not journal.exists():
        export_journal(study, journal)


def export_journal(study: optuna.Study, path: Path) -> None:
    """Write an Optuna study as a journal, for ``optuna-dashboard``. It is never read back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "journal.log"
        storage = JournalStorage(JournalFileBackend(str(draft)))
        copy = optuna.create_study(study_name=path.stem, directions=study.directions, storage=storage)
        copy.add_trials(study.trials)
        write_atomic(path, draft.read_bytes())


def _one_trial(
    study: optuna.Study,
    spec: OperatingPointsSpec,
    candidates: Sequence[Candidate],
    number: int,
    seed: int,
    name: str,
    known: dict[object, int],
    by_number: Mapping[int, Mapping[str, Any]],
) -> dict[str, Any]:
    """Ask for one trial, replay it, tell the result; returns its row."""
    trial = _ask(study, spec, number, seed)
    row: dict[str, Any] = {"number": number, "search": name, "sampler": spec.sampler, "batch_size": spec.batch_size}
    try:
        point = suggest(trial, candidates, spec)
        row |= {"trial_id": point.candidate.trial_id, **point.settings()}
        if point.key in known:
            row["repeat_of"] = known[point.key]
            original = by_number[known[point.key]]
            metrics: dict[str, Any] = {column: original.get(column) for column in _METRICS}
        else:
            metrics = {"split": "validation", **point.evaluate()[0]}
            exceeded = constraint_values(metrics, spec.constraints.limits, reference_accuracy(candidates))
            metrics |= {"constraints": json.dumps(exceeded), "feasible": all(x <= 0 for x in exceeded.values())}
        values = [_known(metrics, objective) for objective in spec.objectives]
        if not np.isfinite(values).all():
            raise UserError(f"an objective is not finite: {dict(zip(spec.objectives, values, strict=True))}")
    except UserError as error:
        study.tell(trial, state=TrialState.FAIL)
        row |= {"state": "FAIL", "error": str(error)}
    else:
        for limit, exceeded in json.loads(metrics["constraints"]).items():
            trial.set_constraint(limit, exceeded)
        study.tell(trial, values)
        row |= {"state": "COMPLETE", **metrics}
        known.setdefault(point.key, number)
    row["params"] = json.dumps(trial.params)
    row["distributions"] = json.dumps({key: distribution_to_json(d) for key, d in trial.distributions.items()})
    return row


_NAMES = SCHEMAS[TABLE].names
_METRICS = _NAMES[_NAMES.index("split") : _NAMES.index("sampler")]
"""Columns that a point's settings decide."""


def reference_accuracy(candidates: Sequence[Candidate]) -> float:
    """Validation accuracy of the best classic network, in fp32 where that is searched: what a drop is counted from."""
    full = [candidate for candidate in candidates if candidate.precision == "fp32"]
    return max(candidate.classic_accuracy for candidate in full or candidates)


def constraint_values(metrics: Mapping[str, Any], limits: Mapping[str, float], reference: float) -> dict[str, float]:
    """By how much each limit is exceeded; kept where it is 0 or below.

    A drop of accuracy is told as a share of images, all others relative to their limit, so that they compare.
    """
    exceeded = {
        name: reference - metrics["accuracy"] - limit if name == "accuracy_drop" else _known(metrics, name) / limit - 1
        for name, limit in limits.items()
    }
    # A drop of exactly the limit must not fail by the rounding of a subtraction.
    return {name: 0.0 if abs(value) < 1e-12 else value for name, value in exceeded.items()}


def _known(metrics: Mapping[str, Any], name: str) -> float:
    value = metrics.get(COLUMNS[name])
    if value is None:
        raise UserError(f"{name}: the costs of this network do not hold it")
    return float(value)


def suggest(
    trial: optuna.trial.BaseTrial, candidates: Sequence[Candidate], spec: OperatingPointsSpec
) -> OperatingPoint:
    """The operating point that a trial stands for.

    ``beta: auto`` searches the quantile of each trace's ratios, so that one dimension suits every network.
    """
    names = list(dict.fromkeys(candidate.trial_id for candidate in candidates))
    chosen = names[0] if len(names) == 1 else str(trial.suggest_categorical("network", names))
    candidate = find_candidate(candidates, chosen, _suggest(trial, "quantization", spec.quantization))
    dvfs = str(_suggest(trial, "dvfs", spec.dvfs))
    exits = candidate.exit_count
    # Networks of different depth have exits of their own: their dimensions carry the depth in their names.
    depth = f"_of_{exits}" if len({other.exit_count for other in candidates}) > 1 else ""
    kind = _suggest(trial, "policy", spec.policy)
    if kind == "classic":
        return OperatingPoint(candidate, "mean_logit", Classic(), dvfs=dvfs)
    if kind == "static":
        exit = trial.suggest_int(f"static_exit{depth}", 1, exits)
        return OperatingPoint(candidate, "mean_logit", Static(exit), dvfs=dvfs)
    statistic = _suggest(trial, "statistic", spec.statistic)
    if statistic not in ("mean_logit", "mean_max"):
        raise UserError(f"threshold statistic {statistic!r} is unknown: use mean_logit or mean_max")
    quantile = None
    if isinstance(spec.beta, Choice):
        beta = float(_suggest(trial, "beta", spec.beta))
    else:
        quantile = trial.suggest_float("beta_quantile", 0.0, 1.0)
        beta = candidate.beta_at(statistic, quantile)
    policy: Policy
    if kind == "placed":
        policy = Placed(beta, _suggest_placement(trial, spec, exits, depth))
    else:
        if isinstance(spec.start_layer, Choice):
            start_layer = int(_suggest(trial, "start_layer", spec.start_layer))
        else:
            start_layer = trial.suggest_int(f"start_layer{depth}", 1, exits)
        if kind == "hierarchical":
            policy = Hierarchical(beta, start_layer)
        else:
            max_jump = int(_suggest(trial, "max_jump", spec.max_jump))
            policy = Predictive(beta, start_layer, max_jump, _suggest(trial, "overshoot", spec.overshoot))
    policy.first_exit(exits)
    return OperatingPoint(candidate, statistic, policy, quantile, dvfs)


def find_candidate(candidates: Sequence[Candidate], trial_id: str, precision: str) -> Candidate:
    """The candidate of a network at a precision."""
    return next(c for c in candidates if (c.trial_id, c.precision) == (trial_id, precision))


def _suggest(trial: optuna.trial.BaseTrial, name: str, choice: Choice) -> Any:
    if choice.is_range and choice.integer:
        return trial.suggest_int(name, int(choice.low), int(choice.high), log=choice.log)
    if choice.is_range:
        return trial.suggest_float(name, choice.low, choice.high, log=choice.log)
    if len(choice.values) == 1:
        return choice.values[0]
    return trial.suggest_categorical(name, choice.values)


def _suggest_placement(
    trial: optuna.trial.BaseTrial, spec: OperatingPointsSpec, exits: int, depth: str
) -> tuple[int, ...]:
    if spec.placements != "auto":
        texts = [" ".join(map(str, placement)) for placement in spec.placements]
        return tuple(map(int, str(trial.suggest_categorical("placement", texts)).split()))
    placed = [e for e in range(1, exits + 1) if trial.suggest_categorical(f"try_exit_{e}{depth}", [False, True])]
    if not placed:
        raise UserError("placed: no exit was chosen")
    return tuple(placed)


_STATEFUL = ("qmc", "nsga2", "nsga3")
"""QMC counts what it drew; NSGA keeps the parents of each generation."""


def make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """An Optuna sampler by its name in a study file."""
    samplers = optuna.samplers
    kinds: Mapping[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "tpe": lambda: samplers.TPESampler(seed=seed),
        "nsga2": lambda: samplers.NSGAIISampler(seed=seed),
        "nsga3": lambda: samplers.NSGAIIISampler(seed=seed),
        "qmc": lambda: samplers.QMCSampler(seed=seed, warn_independent_sampling=False),
        "gp": lambda: samplers.GPSampler(seed=seed, warn_independent_sampling=False),
        "random": lambda: samplers.RandomSampler(seed=seed),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return kinds[name]()


def _ask(study: optuna.Study, spec: OperatingPointsSpec, number: int, seed: int) -> optuna.Trial:
    """The next trial, whatever was asked before this process started."""
    if spec.sampler != "qmc":
        state = np.random.SeedSequence([seed, number]).generate_state(1)
        study.sampler = make_sampler(spec.sampler, int(state[0]))
    return study.ask()


def _rebuild(
    study: optuna.Study,
    rows: Sequence[Mapping[str, Any]],
    spec: OperatingPointsSpec,
    candidates: Sequence[Candidate],
    seed: int,
) -> None:
    """Bring a new study to where the table stands.

    Samplers that keep a state of their own beside the trials are asked everything again, which costs next to nothing
    for them; to the others the stored trials are added.

    Raises:
        UserError: asked again, such a sampler answers otherwise than the table says.
    """
    if spec.sampler == "qmc":
        study.sampler = make_sampler("qmc", seed)
    for number, row in enumerate(rows):
        values = [row[COLUMNS[objective]] for objective in spec.objectives]
        complete = row["state"] == "COMPLETE"
        if spec.sampler in _STATEFUL:
            trial = _ask(study, spec, number, seed)
            with contextlib.suppress(UserError):
                suggest(trial, candidates, spec)
            if trial.params != json.loads(row["params"]):
                raise UserError(
                    f"sampler {spec.sampler} does not repeat trial {number} of the stored search, which was made with "
                    "other versions; remove the table operating_points to search again"
                )
            for limit, exceeded in json.loads(row["constraints"] or "{}").items():
                trial.set_constraint(limit, exceeded)
            study.tell(trial, values if complete else None, state=None if complete else TrialState.FAIL)
            continue
        distributions = {key: json_to_distribution(d) for key, d in json.loads(row["distributions"]).items()}
        study.add_trial(
            optuna.create_trial(
                state=TrialState.COMPLETE if complete else TrialState.FAIL,
                params=json.loads(row["params"]),
                distributions=distributions,
                values=values if complete else None,
                constraints=json.loads(row["constraints"] or "{}"),
            )
        )


def _stored_rows(tables: Path, name: str) -> list[dict[str, Any]]:
    if not part_count(tables, TABLE):
        return []
    table = read_table(tables, TABLE)
    rows = sorted(rows_of(table[table["search"] == name]), key=lambda row: int(row["number"]))
    if [row["number"] for row in rows] != list(range(len(rows))):
        raise UserError(f"{tables / TABLE} lacks a part: put it back, or remove the folder to search again")
    return rows


def point_of(row: Mapping[str, Any], candidates: Sequence[Candidate]) -> OperatingPoint:
    """The operating point that a row of the table describes."""
    candidate = find_candidate(candidates, row["trial_id"], row["precision"])
    kind, beta = row["policy"], row["beta"]
    policy: Policy
    if kind == "classic":
        policy = Classic()
    elif kind == "static":
        policy = Static(int(row["exits"][0]))
    elif kind == "placed":
        policy = Placed(beta, tuple(int(exit) for exit in row["exits"]))
    elif kind == "hierarchical":
        policy = Hierarchical(beta, int(row["start_layer"]))
    else:
        policy = Predictive(beta, int(row["start_layer"]), int(row["max_jump"]), row["overshoot"])
    return OperatingPoint(candidate, row["statistic"], policy, row["beta_quantile"], row["dvfs"])
