"""The exact front of a search space against brute force: every setting, every beta at which anything can change."""

import itertools
from dataclasses import replace
from math import inf

import numpy as np
import pytest
from support.exact_spaces import ALL_KINDS, costs, split, traced, with_work

from results.schemas import SCHEMAS
from search_spaces.choices import Choice
from search_spaces.spec import OperatingPointsSpec, parse_space
from study import Costs
from study.checkpoints.description import WeightsId
from study.costs.model.dvfs import LevelCosts
from study.errors import UserError
from study.policies.criteria import CRITERIA
from study.policies.decision_table import table_for
from study.policies.policies import Classic, Hierarchical, Placed, Predictive, Static
from study.search.exact_search import check_covered, exact_points, uncovered
from study.search.operating_point import COLUMNS, OperatingPoint
from study.search.space import constraint_values
from study.search.traced_network import Frequencies, TracedNetwork, reference_network

ONE = [traced("one", 4, 0)]
FOUR = [
    traced(name, exits, seed, precision)
    for name, exits, seed in (("shallow", 2, 10), ("deep", 3, 20))
    for precision, seed in (("fp32", seed), ("int8", seed + 5))
]


def spec(text: str) -> OperatingPointsSpec:
    return parse_space(f"name: x\noperating_points: {{{text}}}", "test").operating_points


def numbers(choice: Choice) -> list[int]:
    return list(choice.values) or list(range(int(choice.low), int(choice.high) + 1))


def rules_of(chosen: OperatingPointsSpec, exits: int):
    """Every policy of a space at beta 1, and whether its thresholds matter."""
    starts = range(1, exits + 1) if chosen.start_layer == "auto" else numbers(chosen.start_layer)
    starts = [start for start in starts if start <= exits]
    for kind in chosen.policy.values:
        if kind == "classic":
            yield Classic(), False
        if kind == "static":
            yield from ((Static(exit), False) for exit in range(1, exits + 1))
        if kind == "predictive":
            for start, jump, end in itertools.product(starts, numbers(chosen.max_jump), chosen.overshoot.values):
                yield Predictive(1.0, start, jump, end), True
        for criterion in chosen.criterion.values if kind in ("hierarchical", "placed") else ():
            if kind == "hierarchical":
                yield from ((Hierarchical(1.0, start, criterion), criterion == "logit") for start in starts)
            else:
                fitting = [exits_tried for exits_tried in chosen.placements if exits_tried[-1] <= exits]
                yield from ((Placed(1.0, tried, criterion), criterion == "logit") for tried in fitting)


def betas_of(chosen: OperatingPointsSpec, one: TracedNetwork, statistic: str, rule) -> list[float]:
    """Betas of the space that meet every operating point of a rule."""
    if isinstance(rule, Classic | Static):
        return [1.0]
    if isinstance(chosen.beta, Choice) and chosen.beta.values:
        return [float(beta) for beta in chosen.beta.values]
    low, high = (chosen.beta.low, chosen.beta.high) if isinstance(chosen.beta, Choice) else (0.0, 1e300)
    scores = np.unique(table_for(one.trace(statistic), rule).up_to(rule.max_jump).scores)
    cuts = {float(cut) for score in scores if score > 0 for cut in (score, np.nextafter(score, 0))}
    return sorted({high, *(cut for cut in cuts if low <= cut <= high)})


def every_point(chosen: OperatingPointsSpec, networks, dvfs: str):
    """All operating points of a space at one frequency rule, from its settings alone."""
    for one in networks:
        for rule, thresholds_matter in rules_of(chosen, one.exit_count):
            for statistic in chosen.statistic.values if thresholds_matter else ("mean_logit",):
                for beta in betas_of(chosen, one, statistic, rule):
                    policy = rule if isinstance(rule, Classic | Static) else replace(rule, beta=beta)
                    yield OperatingPoint(one, statistic, policy, dvfs=dvfs)


def values_of(metrics: dict[str, float], objectives) -> tuple[float, ...]:
    return tuple(metrics[COLUMNS[name]] for name in objectives)


KNOWN: dict[object, tuple[list[TracedNetwork], list[dict[str, float]]]] = {}


def all_metrics(chosen: OperatingPointsSpec, networks, dvfs: str) -> list[dict[str, float]]:
    """Metrics of every point that can be evaluated: computed once for spaces that differ in what is asked of points."""
    shared = chosen.model_dump_json(exclude={"objectives", "constraints", "dvfs"})
    key = shared, dvfs, *map(id, networks)
    if key not in KNOWN:
        found: list[dict[str, float]] = []
        KNOWN[key] = list(networks), found  # with the networks, so that no other network gets the id of one
        for point in every_point(chosen, networks, dvfs):
            try:
                found.append(point.evaluate())
            except UserError:  # the deadline cannot be kept
                assert dvfs == "deadline"
    return KNOWN[key][1]


def all_values(chosen: OperatingPointsSpec, networks) -> set[tuple[float, ...]]:
    """Objectives of every point that keeps to the constraints."""
    reference = reference_network(networks).classic_accuracy
    return {
        values_of(metrics, chosen.objectives)
        for dvfs in chosen.dvfs.values
        for metrics in all_metrics(chosen, networks, dvfs)
        if max(constraint_values(metrics, chosen.constraints.limits, reference).values(), default=0) <= 0
    }


def best_of(values, objectives) -> set[tuple[float, ...]]:
    """Those that no other dominates, straight from the definition."""
    table = np.array(sorted(values)) * [-1.0 if name == "accuracy" else 1.0 for name in objectives]
    beaten = [((table <= row).all(axis=1) & (table < row).any(axis=1)).any() for row in table]
    return {value for value, out in zip(sorted(values), beaten, strict=True) if not out}


def assert_exact(text: str, networks, *, least: int = 2) -> list:
    """The front of a space is that of brute force, and each of its points is what it says."""
    chosen = spec(text)
    found, values = exact_points(chosen, networks, reference_network(networks).classic_accuracy)
    every = all_values(chosen, networks)
    assert len(every) > least, "the space is no test"
    rows = [tuple(map(float, row)) for row in values]
    assert set(rows) == best_of(every, chosen.objectives)
    assert len(rows) == len(set(rows)) == len(found) >= least
    costs_first = [
        row for name, row in zip(chosen.objectives, zip(*rows, strict=True), strict=True) if name != "accuracy"
    ]
    assert list(costs_first[0]) == sorted(costs_first[0]), "cheapest first"
    for one, row in zip(found, rows, strict=True):
        assert values_of(one.evaluate(), chosen.objectives) == row
        assert set(one.settings()) <= set(SCHEMAS["operating_points"].names)
        if one.beta_high is None:
            assert one.beta_low is None and isinstance(one.policy, Classic | Static)
            continue
        assert one.beta_low < one.policy.beta <= one.beta_high
        for beta in (float(np.nextafter(one.beta_low, inf)), min(one.beta_high, 1e300)):
            inside = replace(one, policy=replace(one.policy, beta=beta))
            assert values_of(inside.evaluate(), chosen.objectives) == row
    return found


JUMPS = "max_jump: [1, 2], overshoot: [last_exit, classifier]"
STATISTICS = "statistic: [mean_logit, mean_max]"
EVERY_CRITERION = f"criterion: [{', '.join(CRITERIA)}]"
TWO = "objectives: [accuracy, flops]"

SPACES = {
    "predictive": f"policy: predictive, {JUMPS}, {STATISTICS}",
    "predictive, a range of jumps": f"policy: predictive, max_jump: {{low: 1, high: 3}}, {TWO}",
    "hierarchical, any criterion": f"policy: hierarchical, {EVERY_CRITERION}, {STATISTICS}",
    "placed, any criterion": f"policy: placed, placements: [[1, 4], [2], [1, 2, 3, 4]], {EVERY_CRITERION}",
    "static": "policy: static",
    "static and classic": f"policy: [classic, static], {TWO}",
    "all kinds": f"{ALL_KINDS}, {JUMPS}, {STATISTICS}, criterion: [logit, margin, patience]",
    "energy alone": f"{ALL_KINDS}, objectives: [energy, accuracy]",
    "four costs": "policy: [predictive, static], objectives: [flops, latency_mean, accuracy, bitops, energy]",
    "start layers, a list": f"policy: [predictive, hierarchical], start_layer: [2, 4], {TWO}",
    "start layers, a range": "policy: [predictive, hierarchical], start_layer: {low: 2, high: 3}",
    "beta, a range": f"policy: [predictive, hierarchical], beta: {{low: 1.5, high: 4}}, {STATISTICS}",
    "beta, a logarithmic range": "policy: predictive, beta: {low: 0.5, high: 30, log: true}",
    "beta, a list": f"policy: [predictive, hierarchical], beta: [0.75, 2, 3.5], {STATISTICS}",
    "beta, one": "policy: predictive, beta: 2",
    "beta of a softmax": "policy: hierarchical, criterion: [max_softmax, entropy], beta: {low: 0.4, high: 0.9}",
}


@pytest.mark.parametrize("name", SPACES)
def test_the_exact_front_is_that_of_brute_force(name):
    assert_exact(SPACES[name], ONE)


@pytest.mark.parametrize("seed", [0, 2])
def test_the_front_across_networks_and_precisions_is_that_of_brute_force(seed):
    """They differ in depth: placements and start layers that one of them lacks are its own matter."""
    others = [
        traced(f"{one.trial_id}{seed}", one.exit_count, 100 * seed + place, one.precision)
        for place, one in enumerate(FOUR)
    ]
    text = f"{ALL_KINDS}, {STATISTICS}, max_jump: [1, 2], criterion: [logit, max_softmax], start_layer: [1, 3]"
    found = assert_exact(f"{text}, quantization: [fp32, int8]", others)
    assert len({(one.network.trial_id, one.network.precision) for one in found}) > 1


def test_a_network_without_the_exits_asked_for_has_no_points():
    """Like the trials that ask it for them, which fail."""
    found = assert_exact(f"policy: [predictive, placed], placements: [[1, 3]], start_layer: 3, {TWO}", FOUR)
    assert {one.network.trial_id for one in found} == {"deep"}


def test_betas_of_a_range_or_list_are_kept_to():
    """An interval is cut at the ends of a range; a point of a list is met at a beta of the list itself."""
    for text, low, high in (("{low: 1.5, high: 4}", 1.5, 4.0), ("[0.75, 2, 3.5]", 0.75, 3.5)):
        chosen = spec(f"policy: [predictive, hierarchical], beta: {text}, {STATISTICS}")
        found, _ = exact_points(chosen, ONE, 1.0)
        betas = [one.policy.beta for one in found]
        assert all(low <= beta <= high for beta in betas) and len(set(betas)) > 1
        if "low" in text:
            assert all(low <= one.beta_low < one.beta_high <= high for one in found)
        else:
            assert any(not (low <= one.beta_low and one.beta_high <= high) for one in found)
    assert set(betas) <= {0.75, 2.0, 3.5}


@pytest.mark.parametrize("beta", ["auto", "{low: 0.5, high: 6}"])
def test_the_beta_of_a_point_lies_well_inside_its_interval(beta):
    """Live logits differ in their last bits: by less than 1e-4 of beta, if the interval is as wide as that."""
    found, _ = exact_points(spec(f"policy: predictive, beta: {beta}"), ONE, 1.0)
    wide = [one for one in found if one.beta_high > one.beta_low * 1.01]
    assert len(wide) > 3
    for one in wide:
        beta = one.policy.beta
        assert one.beta_low * (1 + 1e-4) < beta < one.beta_high * (1 - 1e-4)


# --- constraints -----------------------------------------------------------------------------------------------------

KINDS = f"{ALL_KINDS}, max_jump: [1, 2], criterion: [logit, patience]"
WITH_WORK = [with_work(one) for one in ONE]


@pytest.mark.parametrize(
    "limits",
    [
        "accuracy_drop: 0.125",
        "accuracy_drop: 0.0625",
        "energy: 24",
        "energy: 24, latency_mean: 11.5",
        "accuracy_drop: 0.25, energy: 26, latency_mean: 12.5",
    ],
)
@pytest.mark.parametrize("objectives", ["[accuracy, flops]", "[accuracy, energy, flops]"])
def test_constraints_filter_before_the_front_is_taken(limits, objectives):
    """A limit may be on a cost that is no objective; where it is met exactly, it is kept."""
    free = all_values(spec(f"{KINDS}, objectives: {objectives}"), ONE)
    kept = all_values(spec(f"{KINDS}, objectives: {objectives}, constraints: {{{limits}}}"), ONE)
    assert kept < free
    assert_exact(f"{KINDS}, objectives: {objectives}, constraints: {{{limits}}}", ONE, least=1)


@pytest.mark.parametrize("limit", [4600, 8200, 10000])
def test_a_limit_on_memory_leaves_out_whole_policies(limit):
    """Which heads a policy keeps decides, not its beta."""
    free = all_values(spec(f"{KINDS}, {TWO}"), WITH_WORK)
    assert all_values(spec(f"{KINDS}, {TWO}, constraints: {{memory: {limit}}}"), WITH_WORK) < free
    found = assert_exact(f"{KINDS}, {TWO}, constraints: {{memory: {limit}, energy: 29}}", WITH_WORK)
    assert all(one.evaluate()["memory_bytes"] <= limit for one in found)


def test_constraints_that_nothing_keeps_leave_nothing():
    for limits in ("energy: 0.001", "accuracy_drop: -0.99"):
        found, values = exact_points(
            spec(f"{KINDS}, constraints: {{{limits}}}"), ONE, reference_network(ONE).classic_accuracy
        )
        assert found == [] and values.shape == (0, 3)


@pytest.mark.parametrize("policy", ["static", "predictive", "classic"])
def test_a_limit_that_only_rounding_exceeds_is_kept_as_the_search_keeps_it(policy):
    """0.1 + 0.2 J are 0.3 J."""
    joules = Costs(
        segment_flops=np.ones(3),
        head_flops=np.zeros(2),
        segment_energy=[0.1, 0.2, 0.0],
        head_energy=np.zeros(2),
        energy_source="modelled:test",
    )
    one = TracedNetwork(WeightsId("one", "w"), joules, split(2, 1), split(2, 2))
    full = OperatingPoint(one, "mean_logit", Classic()).evaluate()
    assert full["energy_joules"] > 0.3 and constraint_values(full, {"energy": 0.3}, 1.0) == {"energy": 0.0}
    free, _ = exact_points(spec(f"policy: {policy}"), [one], 1.0)
    found, _ = exact_points(spec(f"policy: {policy}, constraints: {{energy: 0.3}}"), [one], 1.0)
    assert [one.settings() for one in found] == [one.settings() for one in free]


# --- frequency rules -------------------------------------------------------------------------------------------------


def with_levels(one: TracedNetwork, slack: float, *, switch_seconds: float = 0.25) -> TracedNetwork:
    """Three levels, at which less power costs more time."""
    speed = 1.0 if one.precision == "fp32" else 2.0
    levels = tuple(costs(one.exit_count, speed=speed * share, watts=watts) for share, watts in ((0.5, 2), (1.0, 8)))
    plan = LevelCosts([500, 1000], levels, idle_watts=1.0, switch_seconds=switch_seconds)
    return replace(one, costs=levels[-1], frequencies=Frequencies(levels=plan, slack=slack, period=64.0))


RULES = f"{ALL_KINDS}, max_jump: [1, 2], {STATISTICS}"
WITH_LEVELS = [with_levels(one, 0.5) for one in ONE]


@pytest.mark.parametrize("dvfs", ["race_to_idle", "paper", "[race_to_idle, paper, deadline]"])
def test_the_exact_front_under_frequency_rules_is_that_of_brute_force(dvfs):
    found = assert_exact(f"{RULES}, dvfs: {dvfs}", WITH_LEVELS)
    assert {one.dvfs for one in found} >= ({"paper", "deadline"} if "deadline" in dvfs else set())


def test_the_exact_front_of_several_networks_under_a_deadline_is_that_of_brute_force():
    text = "policy: [predictive, static], max_jump: 2, dvfs: deadline, objectives: [accuracy, energy, latency_mean]"
    ready = [with_levels(one, 0.25) for one in FOUR]
    assert_exact(f"{text}, quantization: [fp32, int8]", ready)
    assert_exact(f"{text}, quantization: [fp32, int8], constraints: {{latency_mean: 8, accuracy_drop: 0.3}}", ready)


def test_policies_that_cannot_keep_the_deadline_have_no_points():
    """Their trials fail in the search."""
    tight = [with_levels(one, 1 / 32) for one in ONE]
    text = f"policy: [predictive, classic], dvfs: deadline, objectives: [accuracy, energy], max_jump: 2, {STATISTICS}"
    points = list(every_point(spec(text), tight, "deadline"))
    failing = [point for point in points if not can_be_kept(point)]
    assert 0 < len(failing) < len(points)
    late = {point.policy.start_layer for point in points if isinstance(point.policy, Predictive)}
    assert {point.policy.start_layer for point in failing} < late
    assert_exact(text, tight)


def can_be_kept(point: OperatingPoint) -> bool:
    try:
        point.evaluate()
    except UserError:
        return False
    return True


# --- spaces without an exact front -----------------------------------------------------------------------------------

UNCOVERED = [
    ("beta: per_exit", "beta: per_exit has one dimension for each exit"),
    ("policy: [predictive, placed]", "placements: auto has two to the power of the number of exits"),
    ("objectives: [accuracy, latency_p99]", "objectives: latency_p99 is not a mean over images, latency_mean is"),
    (
        "objectives: [accuracy, flops, latency_p50]",
        "objectives: latency_p50 is not a mean over images, latency_mean is",
    ),
    ("constraints: {latency_p50: 1}", "constraints: latency_p50 is not a mean over images"),
    ("constraints: {latency_p99: 1}", "constraints: latency_p99 is not a mean over images"),
]
COVERED = [
    "policy: predictive",
    f"{ALL_KINDS}, criterion: [logit, patience], beta: [1, 2]",
    "policy: [static, classic], placements: auto",
    "objectives: [accuracy, bitops, latency_mean]",
    "constraints: {latency_mean: 1, memory: 1, energy: 1, accuracy_drop: 0.1}",
]


@pytest.mark.parametrize(("text", "reason"), UNCOVERED)
def test_what_has_no_exact_front_is_told_why(text, reason):
    chosen = spec(text)
    assert str(uncovered(chosen)).startswith(reason)
    check_covered(chosen)
    check_covered(spec(f"{text}, stop: {{plateau: 2}}"))
    with pytest.raises(UserError, match=r"^operating_points\.search: exact does not cover this space: ") as error:
        check_covered(spec(f"{text}, search: exact"))
    assert reason in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"^operating_points\.stop: .* no hypervolume_ratio .*: use plateau$") as error:
        check_covered(spec(f"{text}, stop: {{hypervolume_ratio: 0.9}}"))
    assert reason in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", COVERED)
def test_all_else_is_covered(text):
    for more in ("", ", search: exact", ", stop: {hypervolume_ratio: 0.9, plateau: 3}"):
        assert uncovered(spec(text + more)) is None
        check_covered(spec(text + more))


@pytest.mark.parametrize("policy", ["predictive", "static"])
@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("objectives: [accuracy, energy]", "energy"),
        ("objectives: [accuracy, latency_mean]", "seconds"),
        ("objectives: [accuracy, flops], constraints: {latency_mean: 100}", "seconds"),
        ("objectives: [accuracy, flops], constraints: {energy: 100}", "energy"),
    ],
)
def test_a_cost_that_the_network_does_not_have_is_told(policy, text, missing):
    plain = replace(ONE[0], costs=Costs(segment_flops=np.ones(5), head_flops=np.ones(4)))
    with pytest.raises(UserError, match=f"this cost profile has no {missing}"):
        exact_points(spec(f"policy: {policy}, {text}"), [plain], 1.0)
