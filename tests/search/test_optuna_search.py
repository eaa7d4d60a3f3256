"""Phase 2: a search is a pure function of its seed, whatever interrupts it, and its rows say what was replayed."""

import math
from collections import Counter
from contextlib import contextmanager

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from support.searches import ALL_POLICIES, ONE, TWO, parse_policy, run, run_killed, traced

from results.parts import part_count, read_table, rows_of, write_part
from search_spaces.spec import OperatingPointsSpec, StopSpec, parse_space
from study import replay
from study.errors import UserError
from study.policies.decision_table import ratio_table
from study.policies.policies import Classic, Hierarchical, Placed, Predictive, Static
from study.progress import Reporter
from study.search.operating_point import OperatingPoint, point_of
from study.search.optuna_search import search
from study.traces.trace import SplitLogits

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
METRICS = ["samples", "accuracy", "flops", "energy_joules", "mean_exit", "mean_heads_run", "classic_accuracy"]


class Listening(Reporter):
    """Keeps the numbers of trials that it was told."""

    @contextmanager
    def task(self, name: str, total: float):
        self.told: list[float] = []
        yield self

    def advance(self, done: float, text: str = "") -> None:
        self.told.append(done)


def spec(text: str = "", **changed) -> OperatingPointsSpec:
    text = f"name: x\noperating_points: {{policy: {ALL_POLICIES}, statistic: [mean_logit, mean_max]{text}}}"
    return parse_space(text, "test").operating_points.model_copy(update={"trials": 30, "batch": 7, **changed})


@pytest.mark.parametrize("trials", [1, 7, 30])
def test_a_search_writes_just_its_trials_numbered_without_gaps(tmp_path, trials):
    reporter = Listening(quiet=True)
    search(spec(trials=trials), ONE, tmp_path, seed=0, name="across", reporter=reporter)
    table = read_table(tmp_path, "operating_points")
    assert table["number"].tolist() == list(range(trials)) and reporter.told[-1] == trials
    assert part_count(tmp_path, "operating_points") == len(reporter.told) == math.ceil(trials / 7)
    again = run(spec(trials=trials), ONE, tmp_path)
    pd.testing.assert_frame_equal(table, again)
    assert len(run(spec(trials=trials + 3), ONE, tmp_path)) == trials + 3


SAMPLERS = [("tpe", 30, 7), ("random", 30, 7), ("qmc", 30, 7), ("nsga2", 160, 35), ("nsga3", 160, 35)]
"""With trials and size of a batch. Passing "gp" takes half a minute, and is therefore left out."""


@pytest.mark.parametrize(("sampler", "trials", "batch"), SAMPLERS, ids=[name for name, _, _ in SAMPLERS])
def test_an_interrupted_search_writes_the_same_table(tmp_path, monkeypatch, sampler, trials, batch):
    chosen = spec(sampler=sampler, trials=trials, batch=batch)
    whole = run(chosen, TWO, tmp_path / "whole")
    assert len(whole) == trials and set(whole["state"]) <= {"COMPLETE", "FAIL"}
    assert len(set(whole["params"])) > trials / 3
    for after in (0, 1, 1):
        run_killed(chosen, TWO, tmp_path / "killed", monkeypatch, after)
    assert len(read_table(tmp_path / "killed", "operating_points")) == 2 * batch
    killed = run(chosen, TWO, tmp_path / "killed")
    pd.testing.assert_frame_equal(killed, whole)


def test_seeds_search_differently(tmp_path):
    first, same, other = (run(spec(), ONE, tmp_path / str(n), seed=seed) for n, seed in enumerate([1, 1, 2]))
    assert first["params"].tolist() == same["params"].tolist() != other["params"].tolist()


def test_every_repeat_names_the_first_point_of_its_kind_also_after_an_interruption(tmp_path, monkeypatch):
    chosen = spec(sampler="random", trials=60, batch=15, policy=parse_policy("[classic, static]"))
    whole = run(chosen, ONE, tmp_path / "whole")
    first: dict[object, int] = {}
    for row in rows_of(whole):
        original = first.setdefault(point_of(row, ONE).key, row["number"])
        assert row["repeat_of"] == (None if original == row["number"] else original)
    assert len(first) == 6
    for _ in range(3):
        run_killed(chosen, ONE, tmp_path / "killed", monkeypatch, after=1)
    pd.testing.assert_frame_equal(run(chosen, ONE, tmp_path / "killed"), whole)


def test_what_is_known_is_not_replayed_again(tmp_path, monkeypatch):
    real, counted = OperatingPoint.evaluate, Counter()

    def evaluate(point, *args):
        counted[point.key] += 1
        return real(point, *args)

    monkeypatch.setattr(OperatingPoint, "evaluate", evaluate)
    chosen = spec(sampler="random", trials=40, policy=parse_policy("[classic, static, placed]"))
    run_killed(chosen, ONE, tmp_path, monkeypatch, after=2)
    counted.clear()
    table = run(chosen, ONE, tmp_path)
    assert counted and max(counted.values()) == 1
    complete = table[table["state"] == "COMPLETE"]
    repeats = complete[complete["repeat_of"].notna()]
    before = complete[(complete["number"] < 14) & complete["repeat_of"].isna()]
    assert len(repeats) > 10 and sum(counted.values()) == len(complete) - len(repeats) - len(before)
    for row in rows_of(repeats):
        original = table.iloc[int(row["repeat_of"])]
        assert all(row[name] == original[name] for name in METRICS)


def test_a_row_is_enough_to_replay_its_point(tmp_path):
    table = run(
        spec(", overshoot: [last_exit, classifier], max_jump: [1, 3]", trials=100, sampler="random"), TWO, tmp_path
    )
    seen = set()
    for row in rows_of(table):
        if row["state"] != "COMPLETE":
            continue
        point = point_of(row, TWO)
        seen.add((type(point.policy), point.network.trial_id))
        metrics = point.evaluate()
        assert metrics == {name: row[name] for name in metrics} and row["split"] == "validation"
        trace = point.network.trace(point.statistic)
        assert metrics["accuracy"] == replay(trace, point.policy).accuracy(trace.labels)
        assert {k: v for k, v in point.settings().items() if v is not None} == {
            k: (v.tolist() if isinstance(v, np.ndarray) else v)
            for k, v in row.items()
            if k in point.settings() and v is not None
        }
    assert seen == {(kind, c.trial_id) for kind in (Classic, Static, Hierarchical, Placed, Predictive) for c in TWO}


def test_metrics_equal_a_direct_count():
    point = OperatingPoint(ONE[0], "mean_max", Static(3))
    metrics, trace = point.evaluate(), ONE[0].trace("mean_max")
    assert metrics["accuracy"] == (trace.logits[:, 2].argmax(axis=1) == trace.labels).mean()
    assert metrics["flops"] == 1 + 2 + 3 + 0.25 and metrics["classic_flops"] == 21
    assert metrics["energy_joules"] == pytest.approx((6 + 5 + 4) / 7 + 0.05) and metrics["mean_heads_run"] == 1
    assert metrics["classic_accuracy"] == (trace.logits[:, -1].argmax(axis=1) == trace.labels).mean()
    assert trace.thresholds == pytest.approx(np.abs(ONE[0].calibration.logits[:, :-1]).max(axis=2).mean(axis=0))


def test_beta_at_is_a_quantile_of_the_validation_ratios():
    trace = ONE[0].trace("mean_max")
    for quantile in (0.0, 0.3, 1.0):
        beta = ONE[0].beta_at(quantile, "mean_max")
        assert (ratio_table(trace, 0).stop < beta).mean() == pytest.approx(quantile, abs=0.01)
    zero = SplitLogits(np.zeros((3, 6, 4), dtype=np.float32), np.zeros(3, dtype=np.int64))
    with pytest.raises(UserError, match="network flat: all mean_max thresholds are 0"):
        traced("flat", 5, calibration=zero).beta_at(0.5, "mean_max")


def test_an_objective_that_is_not_a_number_fails_its_trial_and_the_search_goes_on(tmp_path, monkeypatch):
    real = OperatingPoint.evaluate

    def evaluate(point, *args):
        metrics = real(point, *args)
        return metrics | {"flops": math.nan} if isinstance(point.policy, Hierarchical) else metrics

    monkeypatch.setattr(OperatingPoint, "evaluate", evaluate)
    for sampler in ("tpe", "qmc", "nsga2"):
        chosen = spec(sampler=sampler, policy=parse_policy("[hierarchical, static]"))
        whole = run(chosen, ONE, tmp_path / sampler)
        failed = whole[whole["policy"] == "hierarchical"]
        assert 0 < len(failed) < len(whole) == 30 and set(failed["state"]) == {"FAIL"}
        assert failed["error"].str.contains("flops.*nan").all() and failed["accuracy"].isna().all()
        assert set(whole[whole["policy"] == "static"]["state"]) == {"COMPLETE"}
        run_killed(chosen, ONE, tmp_path / f"{sampler} killed", monkeypatch, after=2)
        killed = run(chosen, ONE, tmp_path / f"{sampler} killed").drop(columns="repeat_of")
        pd.testing.assert_frame_equal(killed, whole.drop(columns="repeat_of"))


def test_ranges_and_lists_of_settings_are_kept_to(tmp_path):
    text = ", beta: {low: 0.5, high: 4}, start_layer: [2, 3], max_jump: {low: 2, high: 4}, placements: [[1, 3], [2]]"
    table = run(spec(text, trials=60), ONE, tmp_path)
    assert set(table["state"]) == {"COMPLETE"} and table["beta_quantile"].isna().all()
    assert table["beta"].dropna().between(0.5, 4).all() and table["beta"].nunique() > 10
    assert set(table["start_layer"].dropna()) == {2, 3} and set(table["max_jump"].dropna()) <= {2, 3, 4}
    placed = table[table["policy"] == "placed"]["exits"]
    assert {tuple(exits) for exits in placed} == {(1, 3), (2,)}


def test_a_setting_that_a_network_does_not_have_fails_its_trials_alone(tmp_path):
    table = run(spec(", start_layer: [1, 5]", trials=60, policy=parse_policy("hierarchical")), TWO, tmp_path)
    failed = table["state"] == "FAIL"
    assert 0 < failed.sum() < 60 and table[failed]["error"].str.contains("exits are numbered 1 to 4").all()
    assert set(table[~failed & (table["start_layer"] == 5)]["trial_id"]) == {"deep"}


def test_searches_of_one_network_each_share_a_table(tmp_path):
    alone = run(spec(), TWO[1:], tmp_path / "alone", name="deep")
    for one in TWO:
        table = run(spec(), [one], tmp_path / "each", name=one.trial_id)
    deep = table[table["search"] == "deep"].reset_index(drop=True)
    assert len(table) == 60 and set(table[table["search"] == "shallow"]["trial_id"].dropna()) == {"shallow"}
    assert deep["number"].tolist() == list(range(30)) and deep["params"].tolist() == alone["params"].tolist()


def test_the_journal_holds_the_search(tmp_path):
    """What `optuna-dashboard` opens: every trial of the table, with its values."""
    table = run(spec(trials=12, batch=5), ONE, tmp_path / "tables")
    (journal,) = (tmp_path / "optuna").iterdir()
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.load_study(study_name=journal.stem, storage=storage)
    complete = table[table["state"] == "COMPLETE"]
    assert len(study.trials) == len(table)
    assert [trial.values[0] for trial in study.trials if trial.values] == complete["accuracy"].tolist()


@pytest.mark.parametrize(("sampler", "lost"), [("tpe", 0), ("tpe", 2), ("nsga2", 2), ("nsga2", 4), ("qmc", 0)])
def test_a_part_that_is_lost_is_asked_again_and_the_parts_behind_it_stay(tmp_path, sampler, lost):
    chosen = spec(sampler=sampler)
    whole = run(chosen, TWO, tmp_path / "whole")
    run(chosen, TWO, tmp_path / "cut")
    parts = sorted((tmp_path / "cut" / "operating_points").glob("*.parquet"))
    kept = {part: part.read_bytes() for number, part in enumerate(parts) if number != lost}
    parts[lost].rename(parts[lost].with_name("part-00009.parquet.damaged"))
    again = run(chosen, TWO, tmp_path / "cut").sort_values("number", ignore_index=True)
    pd.testing.assert_frame_equal(again, whole)
    assert all(part.read_bytes() == content for part, content in kept.items())


@pytest.mark.parametrize(("sampler", "first"), [("tpe", 3), ("tpe", 30), ("random", 7), ("nsga2", 3), ("nsga2", 7)])
def test_a_search_that_grows_ends_as_the_larger_one(tmp_path, monkeypatch, sampler, first):
    small, large = (spec(sampler=sampler, trials=trials) for trials in (first, 40))
    whole = run(large, TWO, tmp_path / "whole")
    run(small, TWO, tmp_path / "grown")
    run_killed(large, TWO, tmp_path / "grown", monkeypatch, 0)
    grown = run(large, TWO, tmp_path / "grown").sort_values("number", ignore_index=True)
    pd.testing.assert_frame_equal(grown, whole)
    assert part_count(tmp_path / "grown", "operating_points") == part_count(tmp_path / "whole", "operating_points")


def test_a_search_that_grows_stops_where_the_larger_one_does(tmp_path):
    stop = StopSpec(plateau=2)
    whole = run(spec(stop=stop, trials=400), ONE, tmp_path / "whole")
    assert len(whole) < 400 and len(whole) % 7 == 0
    run(spec(stop=stop, trials=10), ONE, tmp_path / "grown")
    pd.testing.assert_frame_equal(run(spec(stop=stop, trials=400), ONE, tmp_path / "grown"), whole)


def test_a_search_that_grows_does_not_stop_in_a_short_batch(tmp_path):
    """Which a smaller study ended with: the larger one looks at its ends of batches alone."""
    stop = StopSpec(hypervolume_ratio=0.5)
    whole = run(spec(stop=stop, trials=70), ONE, tmp_path / "whole")
    for small in (len(whole) - 6, len(whole) - 1):
        run(spec(stop=stop, trials=small), ONE, tmp_path / str(small))
        grown = run(spec(stop=stop, trials=70), ONE, tmp_path / str(small)).sort_values("number", ignore_index=True)
        pd.testing.assert_frame_equal(grown, whole)


def test_parts_that_an_earlier_version_cut_elsewhere_stay(tmp_path):
    """It went on behind a short batch: parts 0-6, 7-9, 10-16, 17-18."""
    whole = list(rows_of(run(spec(trials=40), ONE, tmp_path / "whole")))
    borders = [(0, 7), (7, 10), (10, 17), (17, 19)]
    for place, (low, high) in enumerate(borders):
        write_part(tmp_path / "old", "operating_points", whole[low:high], place)
    grown = run(spec(trials=40), ONE, tmp_path / "old").sort_values("number")
    assert grown["number"].tolist() == list(range(40))
    assert grown["params"].tolist() == [row["params"] for row in whole]
    assert len(run(spec(trials=45), ONE, tmp_path / "old")) == 45


def test_a_row_that_stands_twice_is_refused(tmp_path):
    run(spec(), ONE, tmp_path)
    first = tmp_path / "operating_points" / "part-00000.parquet"
    first.with_name("part-00077.parquet").write_bytes(first.read_bytes())
    with pytest.raises(UserError, match="holds trial 0 of search across twice"):
        run(spec(trials=40), ONE, tmp_path)
