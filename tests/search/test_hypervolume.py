"""How good a search is: hypervolumes by hand, their columns in the table, and the reasons to stop that follow."""

from dataclasses import replace
from itertools import groupby, pairwise

import numpy as np
import pandas as pd
import pytest
from support.scaled_networks import BOTH
from support.searches import ALL_POLICIES, ONE, TWO, run, run_killed, split

from results.parts import part_count, read_table, rows_of
from search_spaces.spec import OperatingPointsSpec, StopSpec, parse_space
from study import Costs
from study.checkpoints.description import WeightsId
from study.errors import UserError
from study.progress import Reporter
from study.search import optuna_search as module
from study.search.exact_search import exact_points
from study.search.hypervolume import GROWTH, MARGIN, HypervolumeIndicator, on_plateau
from study.search.operating_point import COLUMNS, point_of
from study.search.optuna_search import list_exact_points
from study.search.traced_network import TracedNetwork, reference_network
from study.traces.trace import SplitLogits

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
QUIET = Reporter(quiet=True)
LISTED = "placements: [[1, 3], [2], [2, 4]]"
"""Placements that leave a space its exact front."""


def spec(text: str, **changed) -> OperatingPointsSpec:
    chosen = parse_space(f"name: x\noperating_points: {{{text}}}", "test").operating_points
    return chosen.model_copy(update={"trials": 40, "batch": 8, "sampler": "random", **changed})


def covered(text: str = "", **changed) -> OperatingPointsSpec:
    return spec(f"policy: {ALL_POLICIES}, statistic: [mean_logit, mean_max], {LISTED}{text}", **changed)


# --- the indicator ---------------------------------------------------------------------------------------------------


def priced(flops: float, joules: float | None = None) -> TracedNetwork:
    """One exit, four classes; the whole network costs just this."""
    costs = Costs(
        segment_flops=[flops / 4, flops * 3 / 4],
        head_flops=[5.0],
        segment_energy=None if joules is None else [joules / 2, joules / 2],
        head_energy=None if joules is None else [9.0],
        segment_seconds=[1.0, 3.0],
        head_seconds=[1.0],
        energy_source="modelled:test",
        seconds_source="modelled:test",
    )
    return TracedNetwork(WeightsId("one", "w"), costs, split(1, 1), split(1, 2))


def row(accuracy: float, flops: float, joules: float = 0.0, **more) -> dict[str, float]:
    return {"accuracy": accuracy, "flops": flops, "energy_joules": joules, **more}


BY_HAND = [
    ([], 0.0),
    ([row(1.0, 0.0)], 1.0),  # the ideal point
    ([row(0.25, 110.0)], 0.0),  # the reference point
    ([row(0.2, 0.0)], 0.0),  # worse than guessing
    ([row(1.0, 111.0)], 0.0),  # dearer than 1.1 x the network without exits
    ([row(0.625, 55.0)], 0.25),
    ([row(1.0, 55.0), row(0.625, 0.0)], 0.75),
    ([row(1.0, 88.0), row(0.5, 22.0)], 0.2 + 0.6 / 3),
    ([row(1.0, 88.0), row(0.5, 22.0), row(0.5, 44.0), row(0.1, 1.0)], 0.2 + 0.6 / 3),
]


@pytest.mark.parametrize(("rows", "expected"), BY_HAND)
@pytest.mark.parametrize("objectives", [["accuracy", "flops"], ["flops", "accuracy"]])
def test_the_hypervolume_is_a_share_of_the_box_from_guessing_to_ideal(rows, expected, objectives):
    indicator = HypervolumeIndicator.of(objectives, [priced(100.0)])
    assert indicator.reference == pytest.approx({"accuracy": 0.25, "flops": 110.0})
    assert indicator.hypervolume(rows) == pytest.approx(expected, abs=1e-12)
    of_test = [{f"test_{name}": value for name, value in one.items()} for one in rows]
    assert indicator.hypervolume(of_test, prefix="test_") == pytest.approx(expected, abs=1e-12)
    values = np.array([[one[COLUMNS[name]] for name in objectives] for one in rows]).reshape(-1, 2)
    assert indicator.of_values(values) == pytest.approx(expected, abs=1e-12)


def test_every_cost_counts_from_the_dearest_network_without_exits():
    names = ["accuracy", "flops", "energy", "latency_mean", "latency_p99"]
    indicator = HypervolumeIndicator.of(names, [priced(100.0, 7.0), priced(300.0, 3.0), priced(200.0, 5.0)])
    expected = {"accuracy": 0.25, "flops": 300 * MARGIN, "energy": 7 * MARGIN}
    assert indicator.reference == pytest.approx(expected | {"latency_mean": 4 * MARGIN, "latency_p99": 4 * MARGIN})
    half = row(0.625, 165.0, 3.85, latency_mean_seconds=2.2, latency_p99_seconds=2.2)
    assert indicator.hypervolume([half]) == pytest.approx(0.5**5)


def test_under_frequency_rules_energy_is_that_of_the_whole_period():
    one = BOTH[0]
    plan = one.frequencies
    busy = plan.levels.costs[-1]
    joules = busy.classic("energy") + (plan.period - busy.classic("seconds")) * plan.levels.idle_watts
    assert HypervolumeIndicator.of(["accuracy", "energy"], [one]).reference["energy"] == pytest.approx(MARGIN * joules)


def test_an_objective_that_the_costs_do_not_hold_is_refused():
    with pytest.raises(UserError, match="no energy"):
        HypervolumeIndicator.of(["accuracy", "energy"], [priced(100.0)])


def test_more_points_never_lower_the_hypervolume_and_units_do_not_matter():
    rng = np.random.default_rng(0)
    rows = [row(*values) for values in rng.uniform(0, 1, (40, 3)) * [1, 130, 9]]
    objectives = ["accuracy", "flops", "energy"]
    indicator = HypervolumeIndicator.of(objectives, [priced(100.0, 7.0)])
    volumes = [indicator.hypervolume(rows[:count]) for count in range(len(rows) + 1)]
    assert volumes[0] == 0 < volumes[-1] < 1 and len(set(volumes)) > 4
    assert all(before <= after + 1e-15 for before, after in pairwise(volumes))
    scaled = [row(one["accuracy"], one["flops"] * 1e9, one["energy_joules"] * 1e-6) for one in rows]
    other = HypervolumeIndicator.of(objectives, [priced(100.0e9, 7.0e-6)])
    assert other.hypervolume(scaled[::-1]) == pytest.approx(volumes[-1], rel=1e-12)


def test_a_plateau_is_so_many_batches_that_together_added_next_to_nothing():
    assert GROWTH == 1e-3
    for volumes, batches, over in (
        ([0.5], 1, False),
        ([0.5, 0.5], 1, True),
        ([0.5, 0.5], 2, False),
        ([0.1, 0.5, 0.5], 2, False),
        ([0.5, 0.5, 0.5], 2, True),
        ([0.5, 0.50049], 1, True),
        ([0.5, 0.50051], 1, False),
        ([0.5, 0.5003, 0.5006], 2, False),
        ([0.5, 0.5003, 0.5006], 1, True),
        ([], 1, False),
    ):
        assert on_plateau(volumes, batches) is over, (volumes, batches)


# --- columns of a search ---------------------------------------------------------------------------------------------


def by_batch(table: pd.DataFrame, size: int) -> list[list[dict[str, object]]]:
    rows = list(rows_of(table))
    return [list(batch) for _, batch in groupby(rows, key=lambda one: one["number"] // size)]


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc", "nsga2"])
@pytest.mark.parametrize("objectives", ["[accuracy, flops]", "[accuracy, flops, energy]"])
def test_the_hypervolume_of_a_search_never_falls_and_never_exceeds_the_exact_front_s(tmp_path, sampler, objectives):
    chosen = covered(f", objectives: {objectives}", sampler=sampler)
    table = run(chosen, TWO, tmp_path)
    indicator = HypervolumeIndicator.of(chosen.objectives, TWO)
    truth = indicator.of_values(exact_points(chosen, TWO, reference_network(TWO).classic_accuracy)[1])
    seen, last = [], 0.0
    for batch in by_batch(table, 8):
        ((volume, ratio),) = {(one["hypervolume"], one["hypervolume_ratio"]) for one in batch}
        seen += batch
        done = [one for one in seen if one["state"] == "COMPLETE"]
        assert volume == pytest.approx(indicator.hypervolume(done), rel=1e-14)
        assert ratio == pytest.approx(volume / truth, rel=1e-14)
        assert last <= volume and ratio <= 1 + 1e-9
        last = volume
    assert 0.5 < ratio < 1 and table["hypervolume"].nunique() > 2


def test_points_that_break_a_constraint_do_not_count(tmp_path):
    chosen = covered(", constraints: {energy: 2.2, accuracy_drop: 0.4}")
    table = run(chosen, TWO, tmp_path)
    kept = table[table["feasible"].eq(True)]
    assert 0 < len(kept) < len(table)
    indicator = HypervolumeIndicator.of(chosen.objectives, TWO)
    last = table.iloc[-1]
    assert last["hypervolume"] == pytest.approx(indicator.hypervolume(rows_of(kept)), rel=1e-14)
    assert last["hypervolume"] < indicator.hypervolume(rows_of(table[table["state"] == "COMPLETE"]))
    assert 0 < last["hypervolume_ratio"] <= 1 + 1e-9


@pytest.mark.parametrize(
    "text", ["policy: [predictive, placed]", "beta: per_exit", "constraints: {latency_p99: 100}", "dvfs: paper"]
)
def test_without_an_exact_front_there_is_no_ratio_but_a_hypervolume(tmp_path, text):
    """Under frequency rules it takes too long, unless the search stops by it."""
    networks = BOTH[:1]
    table = run(spec(f"{text}, objectives: [accuracy, flops]", trials=16), networks, tmp_path)
    assert table["hypervolume_ratio"].isna().all()
    assert (table["hypervolume"] > 0).all() and table["hypervolume"].is_monotonic_increasing


def test_under_frequency_rules_the_ratio_is_known_where_the_search_stops_by_it(tmp_path):
    text = "policy: [predictive, static], dvfs: [race_to_idle, paper], stop: {hypervolume_ratio: 0.999999}"
    few = [replace(one, validation=first(one.validation, 12)) for one in BOTH]
    table = run(spec(f"{text}, objectives: [accuracy, energy], quantization: [fp32, int8]"), few, tmp_path)
    ratios = table["hypervolume_ratio"]
    assert ratios.is_monotonic_increasing and 0.5 < ratios.iloc[-1] <= 1 + 1e-9


def first(whole: SplitLogits, count: int) -> SplitLogits:
    return SplitLogits(whole.logits[:count], whole.labels[:count], whole.int8_execution)


# --- reasons to stop -------------------------------------------------------------------------------------------------


def ends(stop: str) -> list[tuple[OperatingPointsSpec, int]]:
    """The space with a reason to stop."""
    return covered(f", stop: {{{stop}}}", trials=160)


def assert_over(chosen, networks, tables, table) -> None:
    """Run again, nothing is asked; also where the journal was lost."""
    for again in range(2):
        pd.testing.assert_frame_equal(run(chosen, networks, tables), table)
        for journal in (tables.parent / "optuna").iterdir() if not again else ():
            journal.unlink()


def test_a_search_stops_with_the_first_batch_that_reaches_the_ratio(tmp_path):
    whole = run(covered(trials=160), TWO, tmp_path / "whole")
    ratios = [batch[0]["hypervolume_ratio"] for batch in by_batch(whole, 8)]
    asked = (ratios[3] + ratios[4]) / 2 if ratios[3] < ratios[4] else ratios[4]
    expected = next(place for place, ratio in enumerate(ratios) if ratio >= asked)
    chosen = ends(f"hypervolume_ratio: {asked}")
    stopped = run(chosen, TWO, tmp_path / "stopped" / "tables")
    assert 0 < len(stopped) == 8 * (expected + 1) < 160
    pd.testing.assert_frame_equal(stopped, whole.iloc[: len(stopped)])
    assert_over(chosen, TWO, tmp_path / "stopped" / "tables", stopped)


@pytest.mark.parametrize("batches", [1, 2])
def test_a_search_stops_on_a_plateau(tmp_path, batches):
    """In a space of six points soon nothing is left to be found."""
    text = "policy: [static, classic], objectives: [accuracy, flops]"
    chosen = spec(f"{text}, stop: {{plateau: {batches}}}", trials=400, batch=5)
    table = run(chosen, ONE, tmp_path / "tables")
    volumes = [batch[0]["hypervolume"] for batch in by_batch(table, 5)]
    stops = [count for count in range(1, len(volumes) + 1) if on_plateau(volumes[:count], batches)]
    assert stops == [len(volumes)] and len(table) == 5 * len(volumes) < 400
    assert_over(chosen, ONE, tmp_path / "tables", table)


def test_a_search_that_has_found_nothing_yet_is_on_no_plateau(tmp_path):
    """Without a reason to stop, the first point that keeps to these constraints is found in the fourth batch."""
    assert not on_plateau([0.0, 0.0, 0.0], 2)
    limits = ", constraints: {energy: 1.5, accuracy_drop: 0.3}"
    whole = run(covered(limits), TWO, tmp_path / "whole")
    assert whole.loc[whole["feasible"].eq(True), "number"].min() // 8 == 3
    stopped = run(covered(f"{limits}, stop: {{plateau: 2}}"), TWO, tmp_path / "stopped")
    assert stopped["feasible"].eq(True).any()


def test_whichever_reason_comes_first_ends_the_search(tmp_path):
    lengths = {}
    for name, stop in (
        ("ratio", "hypervolume_ratio: 0.9"),
        ("plateau", "plateau: 2"),
        ("both", "hypervolume_ratio: 0.9, plateau: 2"),
    ):
        lengths[name] = len(run(ends(stop), TWO, tmp_path / name))
    assert lengths["both"] == min(lengths.values()) < 160


def test_without_a_reason_to_stop_all_trials_are_asked(tmp_path):
    """A ratio out of reach is none either."""
    assert len(run(covered(trials=48), ONE, tmp_path / "one")) == 48
    assert len(run(covered(", stop: {hypervolume_ratio: 1, plateau: 99}", trials=48), TWO, tmp_path / "two")) == 48


FINITE = [
    "policy: hierarchical, criterion: patience, start_layer: [1, 2]",
    "policy: [static, classic]",
    "policy: hierarchical, beta: [1, 2, 3], start_layer: [1, 2]",
    "policy: predictive, beta: [1, 2, 3], start_layer: [1, 2]",
]


@pytest.mark.parametrize("text", FINITE)
@pytest.mark.parametrize("objectives", ["[accuracy, flops]", "[accuracy, flops, energy]"])
def test_a_search_that_has_found_everything_has_the_ratio_1_and_may_stop_there(tmp_path, text, objectives):
    """Though its sums are rounded otherwise than those of the exact front."""
    chosen = spec(f"{text}, objectives: {objectives}", trials=60, batch=10)
    at_one = chosen.model_copy(update={"stop": StopSpec(hypervolume_ratio=1)})
    table = run(chosen, ONE, tmp_path / "whole")
    assert table["hypervolume_ratio"].iloc[-1] == pytest.approx(1, abs=1e-12)
    assert len(run(at_one, ONE, tmp_path / "stopped")) < 60


@pytest.mark.parametrize(
    ("sampler", "stop"), [("random", "hypervolume_ratio: 0.88"), ("tpe", "plateau: 1"), ("qmc", "plateau: 1")]
)
def test_an_interrupted_search_with_a_reason_to_stop_writes_the_same_table(tmp_path, monkeypatch, sampler, stop):
    chosen = covered(f", stop: {{{stop}}}", trials=120, sampler=sampler)
    whole = run(chosen, TWO, tmp_path / "whole")
    assert 24 <= len(whole) < 120 and whole["hypervolume_ratio"].notna().all()
    for after in (1, 1):
        run_killed(chosen, TWO, tmp_path / "killed", monkeypatch, after)
    assert len(read_table(tmp_path / "killed", "operating_points")) == 16
    pd.testing.assert_frame_equal(run(chosen, TWO, tmp_path / "killed"), whole)


def test_searches_of_one_network_each_stop_by_themselves(tmp_path):
    chosen = covered(", stop: {hypervolume_ratio: 0.9}", trials=160)
    for one in TWO:
        table = run(chosen, [one], tmp_path, name=one.trial_id)
    for one in TWO:
        own = table[table["search"] == one.trial_id].reset_index(drop=True)
        alone = run(chosen, [one], tmp_path / one.trial_id, name=one.trial_id)
        pd.testing.assert_frame_equal(own, alone)
        assert own["hypervolume_ratio"].iloc[-1] >= 0.9 > own["hypervolume_ratio"].iloc[0]


# --- the exact front in place of a search ----------------------------------------------------------------------------


def listed(chosen, networks, tables, name: str = "across") -> pd.DataFrame:
    list_exact_points(chosen, networks, tables, name=name, reporter=QUIET)
    return read_table(tables, "operating_points")


EXACT = f"policy: {ALL_POLICIES}, {LISTED}, criterion: [logit, margin, patience], search: exact"


@pytest.mark.parametrize("limits", ["", ", constraints: {accuracy_drop: 0.3, energy: 2.9}"])
def test_the_exact_front_is_written_once_with_all_columns(tmp_path, limits):
    chosen = spec(f"{EXACT}{limits}")
    table = listed(chosen, TWO, tmp_path)
    found, values = exact_points(chosen, TWO, reference_network(TWO).classic_accuracy)
    assert table["number"].tolist() == list(range(len(found))) and len(found) > 5
    columns = [COLUMNS[name] for name in chosen.objectives]
    np.testing.assert_allclose(table[columns].to_numpy(dtype=float), values, rtol=1e-12)
    for name, expected in (("state", "COMPLETE"), ("sampler", "exact"), ("split", "validation"), ("search", "across")):
        assert set(table[name]) == {expected}
    assert table["feasible"].all() and table["repeat_of"].isna().all()
    assert (table["hypervolume_ratio"] == 1).all()
    indicator = HypervolumeIndicator.of(chosen.objectives, TWO)
    np.testing.assert_allclose(table["hypervolume"], indicator.hypervolume(rows_of(table)), rtol=1e-12)
    for stored, one in zip(rows_of(table), found, strict=True):
        point = point_of(stored, TWO)
        assert (point.policy, point.network.weights, point.statistic) == (
            one.policy,
            one.network.weights,
            one.statistic,
        )
        assert (stored["beta_low"], stored["beta_high"]) == (one.beta_low, one.beta_high)
        metrics = point.evaluate()
        assert metrics == {name: stored[name] for name in metrics}


def test_written_again_the_exact_front_adds_nothing(tmp_path, monkeypatch):
    chosen = spec(EXACT)
    table = listed(chosen, ONE, tmp_path)
    monkeypatch.setattr(module, "exact_points", lambda *_: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(listed(chosen, ONE, tmp_path), table)
    assert part_count(tmp_path, "operating_points") == 1


def test_exact_fronts_of_several_groups_share_a_table(tmp_path):
    chosen = spec(EXACT)
    for one in TWO:
        table = listed(chosen, [one], tmp_path, one.trial_id)
    assert part_count(tmp_path, "operating_points") == 2
    for one in TWO:
        own = table[table["search"] == one.trial_id].reset_index(drop=True)
        assert set(own["trial_id"]) == {one.trial_id}
        pd.testing.assert_frame_equal(own, listed(chosen, [one], tmp_path / one.trial_id, one.trial_id))


def test_no_sampled_point_beats_the_exact_front(tmp_path):
    """With costs whose sums are rounded."""
    chosen = covered(", criterion: [logit, entropy]", trials=120)
    found = run(chosen, TWO, tmp_path)
    found = found[found["state"] == "COMPLETE"]
    _, values = exact_points(chosen, TWO, reference_network(TWO).classic_accuracy)
    for accuracy, flops, joules in found[["accuracy", "flops", "energy_joules"]].to_numpy():
        as_good = values[values[:, 0] >= accuracy - 1e-12]
        no_dearer = (as_good[:, 1] <= flops * (1 + 1e-12)) & (as_good[:, 2] <= joules * (1 + 1e-12))
        assert no_dearer.any()


def test_an_exact_front_without_a_point_is_told(tmp_path):
    """And the other networks' fronts are still computed."""
    told: list[str] = []
    reporter = Reporter(quiet=True)
    reporter.line = told.append
    none = spec(f"{EXACT}, constraints: {{energy: 1e-9}}")
    list_exact_points(none, ONE, tmp_path, name="across", reporter=reporter)
    assert told == ["operating points: no operating point of one keeps the constraints"]
    assert not any(tmp_path.iterdir())
