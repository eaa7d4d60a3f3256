"""From the parameters that Optuna suggests to an operating point."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import optuna

from search_spaces.choices import Choice
from search_spaces.spec import OperatingPointsSpec
from study.errors import UserError
from study.fronts.priced_paths import PRICES
from study.policies.base import Betas, Policy
from study.policies.criteria import Criterion
from study.policies.policies import POLICIES, Classic
from study.policies.thresholds import Statistic
from study.search.exact_search import fitted_policies
from study.search.operating_point import OperatingPoint
from study.search.traced_network import TracedNetwork, find_network


def suggest(
    trial: optuna.trial.BaseTrial, networks: Sequence[TracedNetwork], spec: OperatingPointsSpec
) -> OperatingPoint:
    """The operating point of a trial.

    With ``beta: auto`` the trial suggests a quantile, and beta is this quantile of the network's scores. One dimension
    then suits networks whose scores have different sizes.
    """
    names = list(dict.fromkeys(network.trial_id for network in networks))
    chosen = names[0] if len(names) == 1 else str(trial.suggest_categorical("network", names))
    network = find_network(networks, chosen, _suggest(trial, "quantization", spec.quantization))
    dvfs = str(_suggest(trial, "dvfs", spec.dvfs))
    exits = network.exit_count
    # Networks of different depth have different exits: the names of their dimensions hold the depth.
    depth = f"_of_{exits}" if len({other.exit_count for other in networks}) > 1 else ""
    kind = POLICIES[_suggest(trial, "policy", spec.policy)]
    own = kind.settings()
    settings: dict[str, Any] = {}
    if "criterion" in own:
        settings["criterion"] = _suggest(trial, "criterion", spec.criterion)
    criterion = settings.get("criterion", kind.criterion)
    statistic: Statistic | None = None
    if criterion == "logit" and not kind.knows_its_end:
        statistic = _suggest(trial, "statistic", spec.statistic)
        if statistic not in get_args(Statistic):
            raise UserError(f"threshold statistic {statistic!r} is unknown: use mean_logit or mean_max")
    quantile = None
    if kind.fitted:
        policy = _suggest_fitted(trial, spec, network, kind, criterion, statistic)
        return OperatingPoint(network, statistic, policy, None, dvfs)
    if "beta" in own:
        settings["beta"], quantile = _suggest_beta(trial, spec, network, statistic, criterion, depth)
    others: Mapping[str, Callable[[], object]] = {
        "exit": lambda: trial.suggest_int(f"static_exit{depth}", 1, exits),
        "exits": lambda: _suggest_placement(trial, spec, exits, depth),
        "start_layer": lambda: _suggest_start_layer(trial, spec, exits, depth),
        "max_jump": lambda: int(_suggest(trial, "max_jump", spec.max_jump)),
        "overshoot": lambda: _suggest(trial, "overshoot", spec.overshoot),
    }
    policy = kind.from_settings(settings | {name: others[name]() for name in own if name in others})
    policy.first_exit(exits)
    return OperatingPoint(network, statistic, policy, quantile, dvfs)


def _suggest_fitted(
    trial: optuna.trial.BaseTrial,
    spec: OperatingPointsSpec,
    network: TracedNetwork,
    kind: type[Policy],
    criterion: Criterion,
    statistic: Statistic | None,
) -> Policy:
    """A policy fitted to the network's calibration split at a suggested price."""
    if isinstance(spec.price, Choice):
        price = float(_suggest(trial, "price", spec.price))
    else:
        price = trial.suggest_float("price", PRICES[0], PRICES[-1], log=True)
    found = fitted_policies(spec, network, kind, criterion, statistic, [price])
    return found[0] if found else Classic()  # at a low price no threshold of a head may be worth its cost


def _suggest_start_layer(trial: optuna.trial.BaseTrial, spec: OperatingPointsSpec, exits: int, depth: str) -> int:
    if isinstance(spec.start_layer, Choice):
        return int(_suggest(trial, "start_layer", spec.start_layer))
    return trial.suggest_int(f"start_layer{depth}", 1, exits)


def _suggest_beta(
    trial: optuna.trial.BaseTrial,
    spec: OperatingPointsSpec,
    network: TracedNetwork,
    statistic: Statistic | None,
    criterion: Criterion,
    depth: str,
) -> tuple[Betas, float | None]:
    """``(beta, quantile)``: one beta or one for each exit; the quantile that gave it, where one quantile was asked."""
    if isinstance(spec.beta, Choice):
        return float(_suggest(trial, "beta", spec.beta)), None
    exits = network.exit_count
    if criterion == "patience":  # a number of exits
        names = [f"patience{depth}"]
        if spec.beta == "per_exit":
            names = [f"patience_{exit}{depth}" for exit in range(1, exits + 1)]
        patience = tuple(float(trial.suggest_int(name, 1, exits)) for name in names)
        return (patience if spec.beta == "per_exit" else patience[0]), None
    if spec.beta == "per_exit":
        names = [f"beta_quantile_{exit}{depth}" for exit in range(1, exits + 1)]
        quantiles = [trial.suggest_float(name, 0.0, 1.0) for name in names]
        return network.betas_at(quantiles, statistic, criterion), None
    quantile = trial.suggest_float("beta_quantile", 0.0, 1.0)
    return network.beta_at(quantile, statistic, criterion), quantile


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


def make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """An Optuna sampler by its name in a study file."""
    samplers = optuna.samplers
    kinds: Mapping[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "tpe": lambda: samplers.TPESampler(seed=seed),
        "nsga2": lambda: samplers.NSGAIISampler(seed=seed),
        "nsga3": lambda: samplers.NSGAIIISampler(seed=seed),
        # Without scrambling the seed has no effect: every seed draws the same sequence.
        "qmc": lambda: samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False),
        "gp": lambda: samplers.GPSampler(seed=seed, warn_independent_sampling=False),
        "random": lambda: samplers.RandomSampler(seed=seed),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return kinds[name]()
