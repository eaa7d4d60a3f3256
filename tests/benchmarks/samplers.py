"""Optuna's samplers against the exact front: how much of its hypervolume each finds, and what its questions cost.

    python tests/benchmarks/samplers.py runs/quickstart runs/cifar10 ...
    python tests/benchmarks/samplers.py --larger runs/quickstart runs/cifar10 ...

The second holds NSGA-II in spaces that no exact method covers against the exact front of beta and start layer.

Every run folder gives one trace: that of its network with the best exits, in fp32. The space is that of the bundled
studies (policy, beta, start layer, statistic, overshoot, longest jump). Nothing is written.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import optuna
from report import circumstances, print_circumstances, print_table

from results.pareto import non_dominated
from search_spaces.spec import OperatingPointsSpec, validate_space
from study.run.reader import stored_networks, stored_study
from study.search.exact_search import exact_points
from study.search.hypervolume import HypervolumeIndicator
from study.search.operating_point import COLUMNS
from study.search.suggest import make_sampler, suggest
from study.search.traced_network import TracedNetwork, reference_network

SPACE = {
    "policy": ["predictive", "hierarchical"],
    "statistic": ["mean_logit", "mean_max"],
    "overshoot": ["last_exit", "classifier"],
    "max_jump": {"low": 2, "high": 8},
    "quantization": "fp32",
}
OBJECTIVES = {2: ["accuracy", "flops"], 3: ["accuracy", "flops", "energy"]}
STATEFUL = ("qmc",)
LARGER = {
    "placed, logit": {"policy": "placed"},
    "placed, margin": {"policy": "placed", "criterion": "margin"},
    "hierarchical, beta per exit": {"policy": "hierarchical", "beta": "per_exit", "statistic": "mean_max"},
    "predictive, beta per exit": {"policy": "predictive", "beta": "per_exit", "statistic": "mean_max"},
    "placed, beta per exit": {"policy": "placed", "beta": "per_exit", "statistic": "mean_max"},
}
LARGER_TRIALS = 1000


def main() -> None:
    """Compare, and print one table for each trace and number of objectives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="run folders")
    parser.add_argument("--samplers", nargs="+", default=["tpe", "nsga2", "nsga3", "qmc", "random", "gp"])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--gp-trials", type=int, default=60, help="its questions take seconds each")
    parser.add_argument("--gp-seeds", type=int, default=3)
    parser.add_argument("--objectives", type=int, nargs="+", default=[2, 3], choices=sorted(OBJECTIVES))
    parser.add_argument("--larger", action="store_true", help="NSGA-II in larger spaces, 1,000 trials, one seed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    facts = {**circumstances(), "optuna": optuna.__version__}
    print_circumstances(facts)
    results = []
    for folder in options.folders:
        study = stored_study(folder, [("operating_points.quantization", "fp32")])
        networks = stored_networks(folder, study.operating_points)
        network = max(networks, key=lambda one: one.trace("mean_max").right.mean())
        if options.larger:
            rows = compare_larger(network)
            print_table(f"{folder.name}: {LARGER_TRIALS} trials of NSGA-II in larger spaces, 3 objectives", rows)
            results += [{"trace": folder.name, **row} for row in rows]
            continue
        for count in options.objectives:
            rows = compare(network, OBJECTIVES[count], options)
            samples, exits = len(network.validation.labels), network.exit_count
            print_table(f"{folder.name}: {samples} samples x {exits} exits, {count} objectives", rows)
            results += [{"trace": folder.name, "objectives": count, **row} for row in rows]
    if options.json:
        print(json.dumps({"circumstances": facts, "results": results}))


def compare(network: TracedNetwork, objectives: list[str], options: argparse.Namespace) -> list[dict[str, object]]:
    """One row for each sampler: mean and standard deviation over seeds of the ratio, early and at the end."""
    spec = space(objectives)
    indicator = HypervolumeIndicator.of(objectives, [network])
    truth = indicator.of_values(exact_points(spec, [network], reference_network([network]).classic_accuracy)[1])
    rows: list[dict[str, object]] = []
    for name in options.samplers:
        trials = options.gp_trials if name == "gp" else options.trials
        seeds = options.gp_seeds if name == "gp" else options.seeds
        ends, early, own, replaying = [], [], 0.0, 0.0
        for seed in range(seeds):
            values, asked, replayed = run(name, seed, trials, network, spec)
            ends.append(indicator.of_values(values) / truth)
            early.append(indicator.of_values(values[: options.gp_trials]) / truth)
            own, replaying = own + asked, replaying + replayed
        rows.append(
            {
                "sampler": name,
                "trials": trials,
                f"after {options.gp_trials}": f"{np.mean(early):.4f}",
                "at the end": f"{np.mean(ends):.4f}",
                "sd": f"{np.std(ends, ddof=1) if len(ends) > 1 else 0.0:.4f}",
                "worst": f"{min(ends):.4f}",
                "ms a trial": 1e3 * (own + replaying) / (trials * seeds),
                "Optuna's own share": f"{own / (own + replaying):.1%}",
            }
        )
        print(f"  {name}: {np.mean(ends):.4f}", flush=True)
    return rows


def compare_larger(network: TracedNetwork) -> list[dict[str, object]]:
    """One row for each space: its hypervolume against the exact front's, and the share of that front it dominates."""
    objectives = OBJECTIVES[3]
    spec = space(objectives)
    indicator = HypervolumeIndicator.of(objectives, [network])
    truth = exact_points(spec, [network], reference_network([network]).classic_accuracy)[1]
    rows: list[dict[str, object]] = []
    for name, changes in LARGER.items():
        found = run("nsga2", 0, LARGER_TRIALS, network, space(objectives, changes))[0]
        both = np.concatenate([truth, found * [1, 1 + 1e-12, 1 + 1e-12]])
        dominated = ~non_dominated(both, maximize=[True, False, False])[: len(truth)]
        ratio = indicator.of_values(found) / indicator.of_values(truth)
        rows.append({"space": name, "hypervolume ratio": f"{ratio:.4f}", "dominates": f"{dominated.mean():.1%}"})
    return rows


def space(objectives: list[str], changes: dict[str, object] | None = None) -> OperatingPointsSpec:
    """The space of the comparison, perhaps changed."""
    raw = {"name": "samplers", "operating_points": {**SPACE, "objectives": objectives, **(changes or {})}}
    return validate_space(raw, "samplers").operating_points


def run(name, seed, trials, network, spec):  # type: ignore[no-untyped-def]
    """Values of all trials, and the seconds of Optuna and of the replay, as in phase 2's own loop."""
    directions = ["maximize" if objective == "accuracy" else "minimize" for objective in spec.objectives]
    study = optuna.create_study(directions=directions, sampler=make_sampler(name, seed))
    values, replaying, start = [], 0.0, time.perf_counter()
    for number in range(trials):
        if name not in STATEFUL:
            state = np.random.SeedSequence([seed, number]).generate_state(1)
            study.sampler = make_sampler(name, int(state[0]))
        trial = study.ask()
        point = suggest(trial, [network], spec)
        before = time.perf_counter()
        metrics = point.evaluate()
        values.append([metrics[COLUMNS[objective]] for objective in spec.objectives])
        replaying += time.perf_counter() - before
        study.tell(trial, values[-1])
    return np.array(values), time.perf_counter() - start - replaying, replaying


if __name__ == "__main__":
    main()
