"""A run folder with made-up tables: as many operating points as a test asks for, without any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from optuna.distributions import FloatDistribution, IntDistribution, distribution_to_json

from results.parts import write_part
from search_spaces.spec import validate_space
from support.studies import tiny_settings

EXITS = 20
_FLOPS, _ENERGY = 8e8, 1.5e-2
_DISTRIBUTIONS = {"beta": FloatDistribution(0.0, 1.0), "start_layer": IntDistribution(1, EXITS)}


def fabricate(folder: Path, points: int, front: int, *, name: str = "made-up", seconds: bool = False) -> Path:
    """Write a finished study whose front has ``front`` of its ``points`` operating points.

    ``seconds``: the study knows latencies.
    """
    rng = np.random.default_rng(0)
    spec = validate_space(
        tiny_settings(
            name=name, operating_points={"trials": points, "constraints": {"accuracy_drop": 0.02}, "search": "optuna"}
        ),
        name,
    )
    folder.mkdir(parents=True)
    made = {"created": "2026-01-01T00:00:00+00:00", "versions": {}, "data_digest": {"digits": "0" * 64}}
    (folder / "study.yaml").write_text(yaml.safe_dump({"study": spec.plain(), "provenance": made}))
    shared = {"data": "digits", "provenance": "made"}
    rows = [_point(number, points, front, rng, seconds) | shared for number in range(points)]
    tables = folder / "tables"
    write_part(tables, "operating_points", rows)
    columns = {"sampler", "hypervolume_ratio", "params", "distributions", "state", "error", "repeat_of"}
    fronts = [{key: value for key, value in row.items() if key not in columns} for row in rows[:front]]
    write_part(
        tables, "front", [row | _on_test(row) | {"hypervolume": 0.7, "test_hypervolume": 0.69} for row in fronts]
    )
    write_part(tables, "exits", [row | shared for row in _exits(fronts, rng)])
    parts = [("segment", exit) for exit in range(1, EXITS + 2)] + [("head", exit) for exit in range(1, EXITS + 1)]
    costs = [{"part": part, "number": number, "flops": 1e7, "precision": "fp32"} for part, number in parts]
    write_part(tables, "costs", [row | shared | {"trial_id": "a" * 12, "batch_size": 1} for row in costs])
    trial = {"trial_id": "a" * 12, "phase": "exits", "backbone": "vgg19", "width": 1.0, "score": 0.9, "settings": "{}"}
    write_part(tables, "trials", [trial | shared])
    return folder


def _point(number: int, points: int, front: int, rng: np.random.Generator, seconds: bool) -> dict[str, Any]:
    """Points of the front lie on a rising curve; the others below it."""
    share = (number + 1) / front if number < front else rng.random()
    accuracy = 0.6 + 0.33 * share**0.3 - (0.0 if number < front else 0.002 + 0.2 * rng.random())
    start = int(rng.integers(1, EXITS))
    policy = "predictive" if number % 3 else "hierarchical"
    beta = float(rng.random())
    return {
        "number": number,
        "search": "made",
        "trial_id": "a" * 12,
        "state": "COMPLETE",
        "policy": policy,
        "criterion": "logit",
        "beta": beta,
        "start_layer": start,
        "max_jump": 8 if policy == "predictive" else None,
        "overshoot": "last_exit" if policy == "predictive" else None,
        "statistic": "mean_max",
        "precision": "fp32",
        "dvfs": "none",
        "batch_size": 1,
        "split": "validation",
        "samples": 5000,
        "accuracy": accuracy,
        "flops": _FLOPS * (0.05 + 0.9 * share),
        "energy_joules": _ENERGY * (0.05 + 0.9 * share),
        "energy_source": "modelled:made-up",
        "latency_mean_seconds": 1e-3 * (0.05 + 0.9 * share) if seconds else None,
        "latency_source": "modelled:made-up" if seconds else None,
        "classic_accuracy": 0.93,
        "classic_flops": _FLOPS,
        "classic_energy_joules": _ENERGY,
        "classic_latency_seconds": 1e-3 if seconds else None,
        "feasible": accuracy > 0.91,
        "constraints": json.dumps({"accuracy_drop": 0.91 - accuracy}),
        "sampler": "tpe",
        "hypervolume": 0.7 * (1 - 0.5 ** (1 + number // 25)),
        "params": json.dumps({"beta": beta, "start_layer": start}),
        "distributions": json.dumps({key: distribution_to_json(one) for key, one in _DISTRIBUTIONS.items()}),
    }


def _on_test(row: dict[str, Any]) -> dict[str, Any]:
    accuracy = row["accuracy"] - 0.003
    return {
        "test_samples": 10_000,
        "test_accuracy": accuracy,
        "test_accuracy_low": accuracy - 0.005,
        "test_accuracy_high": accuracy + 0.005,
        "optimism": 0.003,
        "test_flops": row["flops"],
        "test_flops_low": row["flops"] * 0.99,
        "test_flops_high": row["flops"] * 1.01,
        "test_energy_joules": row["energy_joules"],
        "test_latency_mean_seconds": row["latency_mean_seconds"],
        "test_classic_accuracy": 0.928,
    }


def _exits(front: list[dict[str, Any]], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Statistics of each layer of the network, and of each point of the front."""
    rows = []
    numbers = np.arange(1, EXITS + 2)
    accuracies, flops = 0.93 - 0.3 * np.exp(-numbers / 5), _FLOPS * numbers / (EXITS + 1)
    for point in [None, *(row["number"] for row in front)]:
        shares = rng.dirichlet(np.ones(EXITS + 1) / 4)
        for place, exit in enumerate(numbers):
            rows.append(
                {
                    "trial_id": "a" * 12,
                    "point": point,
                    "precision": "fp32",
                    "split": "validation" if point is None else "test",
                    "statistic": "mean_max",
                    "exit": int(exit),
                    "threshold": 1.0 if exit <= EXITS else None,
                    "share_stopped": None if point is None else shares[place],
                    "accuracy_stopped": None if point is None or shares[place] < 1e-4 else accuracies[place],
                    "accuracy_all": accuracies[place],
                    "cumulative_flops": flops[place],
                    "cumulative_energy_joules": _ENERGY * exit / (EXITS + 1),
                    "cumulative_seconds": 1e-3 * exit / (EXITS + 1),
                }
            )
    return rows
