"""Cost profiles: what they refuse, what a walk costs, and JSON."""

import json
from math import inf, nan

import numpy as np
import pytest

from study import Costs, UserError, Walk
from study.costs.costs import MEASURES


def fields(**changes) -> dict:
    """Two exits, all measures; `changes` replace a field."""
    return {
        "segment_flops": [1.0, 2.0, 4.0],
        "head_flops": [8.0, 16.0],
        "engine_step_flops": 32.0,
        "segment_energy": [0.1, 0.2, 0.3],
        "head_energy": [0.01, 0.02],
        "engine_step_energy": 0.001,
        "segment_seconds": [10.0, 20.0, 40.0],
        "head_seconds": [80.0, 160.0],
        "engine_step_seconds": 320.0,
        "energy_source": "nvml",
    } | changes


def walk(exit_index, tried, engine_steps) -> Walk:
    zeros = np.zeros(len(exit_index), dtype=np.int64)
    return Walk(np.array(exit_index), zeros, np.array(tried, dtype=bool), np.array(engine_steps))


def test_a_walk_costs_its_segments_heads_and_engine_steps():
    """Stop at exit 1; head 1, three steps, then exit 2; the classifier without a head; both heads, then the end."""
    walks = walk([1, 2, 3, 3], [[1, 0], [1, 1], [0, 0], [1, 1]], [0, 3, 0, 5])
    costs = Costs(**fields())
    flops = [1 + 8, 3 + 24 + 96, 7, 7 + 24 + 160]
    assert costs.per_sample(walks, "flops").tolist() == flops
    assert costs.per_sample(walks, "seconds").tolist() == [10 * value for value in flops]
    joules = [0.11, 0.3 + 0.03 + 0.003, 0.6, 0.6 + 0.03 + 0.005]
    assert costs.per_sample(walks, "energy") == pytest.approx(joules, rel=1e-12)
    assert costs.classic("flops") == 7.0


def test_a_profile_without_a_measure_refuses_it():
    costs = Costs(segment_flops=[1.0, 2.0], head_flops=[3.0])
    assert costs.exit_count == 1
    for measure in ("energy", "seconds"):
        with pytest.raises(UserError, match=f"no {measure}"):
            costs.parts(measure)
    with pytest.raises(UserError, match="flops, bitops, energy, seconds"):
        costs.parts("accuracy")


@pytest.mark.parametrize(
    "changes",
    [
        {"segment_flops": [1.0, 2.0]},
        {"segment_flops": [1.0, 2.0, 4.0, 8.0]},
        {"segment_flops": 1.0},
        {"head_flops": [[8.0, 16.0]]},
        {"head_energy": [0.1]},
        {"segment_seconds": [1.0, 2.0]},
        {"segment_flops": [1.0, -2.0, 4.0]},
        {"head_flops": [nan, 16.0]},
        {"segment_energy": [0.1, inf, 0.1]},
        {"segment_energy": None},
        {"head_energy": None},
        {"segment_seconds": None},
        {"energy_source": None},
        {"energy_source": ""},
        {"decision_flops": -1.0},
        {"decision_flops": "many"},
        {"cascaded": 1},
    ],
)
def test_bad_costs_are_refused_in_one_line(changes):
    with pytest.raises(UserError, match="costs: ") as error:
        Costs(**fields(**changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("bad", [-1.0, nan, inf])
def test_a_bad_engine_step_is_refused(measure, bad):
    """Costs promise: "a cost is negative or not finite" raises."""
    with pytest.raises(UserError, match=f"engine_step_{measure}"):
        Costs(**fields(**{f"engine_step_{measure}": bad}))


def test_no_energy_needs_no_source():
    costs = Costs(**fields(segment_energy=None, head_energy=None, engine_step_energy=0.0, energy_source=None))
    assert costs.energy_source is None


@pytest.mark.parametrize(
    "changes", [{}, {"segment_seconds": None, "head_seconds": None}, {"segment_energy": [0.1 + 0.2, 1e-300, 1e300]}]
)
def test_json_round_trip_loses_nothing(changes):
    costs = Costs(**fields(**changes))
    text = costs.to_json()
    assert json.loads(text)["energy_source"] == "nvml"
    again = Costs.from_json(text.encode())
    for name in fields():
        one, other = getattr(costs, name), getattr(again, name)
        assert type(one) is type(other)
        np.testing.assert_array_equal(one, other)
    assert again.to_json() == text


def test_bad_costs_in_json_are_refused():
    values = json.loads(Costs(**fields()).to_json())
    with pytest.raises(UserError, match="head_flops"):
        Costs.from_json(json.dumps(values | {"head_flops": [1.0, -1.0]}))
