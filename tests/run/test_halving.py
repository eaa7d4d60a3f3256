"""Phase 1 by rungs: who goes on, and that a phase that was interrupted ends like one that was not."""

import math

import pytest
import torch

from results.parts import read_table
from search_spaces.spec import SchedulerSpec, StudySpec, TrainingSpec
from study.checkpoints.description import made_by_now
from study.checkpoints.tensors import save
from study.data.settings import DataInfo
from study.execution.executor import TrainingContext
from study.execution.failures import Failure
from study.execution.trial import read_trial
from study.execution.trial_plan import TrialPlan
from study.execution.trial_record import TrialRecord, rank_records
from study.networks.construction import new_network
from study.networks.settings import HeadSettings, NetworkSettings
from study.progress import Reporter
from study.run.folder import Provenance
from study.run.phase_1 import decide, run_phase, survivors, write_trials
from study.run.trials import rungs
from study.training.learning_curves import Epoch, outcome
from study.training.loop import TrainingState
from study.training.settings import TrainingSettings

GREY = {"channels": 1, "mean": (0.5,), "std": (0.3,), "settings": {}}
INFO = DataInfo(name="digits", image_size=32, class_names=("a", "b"), flip=False, crop_padding=4, digest="d", **GREY)
NETWORK = NetworkSettings(backbone="vgg11", width=0.05, head=HeadSettings(kind="linear"))
HALVING = TrainingSpec(epochs=8, scheduler=SchedulerSpec(kind="halving", first_rung=2, reduction=2))


class Killed(BaseException): ...


def epoch(number: int, score: float) -> Epoch:
    return Epoch(
        epoch=number,
        learning_rate=0.1,
        train_loss=math.nan if math.isnan(score) else 1.0,
        validation_loss=1.0,
        classifier_accuracy=0.5,
        exit_accuracies=(),
        score=score,
        seconds=0.0,
    )


def plans(count: int = 8, **training) -> list[TrialPlan]:
    return [
        TrialPlan(
            phase="backbones",
            network=NETWORK,
            training=TrainingSettings(mode="normal", seed=seed, precision="fp32", **training),
            data_digest=INFO.digest,
        )
        for seed in range(count)
    ]


def slow_starter(seed: int, number: int) -> float:
    """Scores in steps, so that there are ties; trials with a high seed start low and end high."""
    return round(0.5 - 0.05 * (seed // 2) + 0.02 * seed * number, 3) % 1


class Trainer:
    """An executor that trains synthetically, epoch by epoch, and writes real checkpoints."""

    def __init__(self, curve=slow_starter, *, fails=(), kill_after: int | None = None, asha_stops=()) -> None:
        self.curve, self.fails, self.kill_after, self.asha_stops = curve, fails, kill_after, asha_stops
        self.trained: list[tuple[int, int]] = []
        self.calls: list[tuple[list[int], int]] = []
        self.network = new_network(NETWORK, INFO, 0)

    def train(self, missing, epochs, context, *, name, asha=None):
        self.calls.append(([plan.training.seed for plan in missing], epochs))
        errors = {}
        for plan in missing:
            seed = plan.training.seed
            if seed in self.fails:
                errors[plan.trial_id] = Failure("OutOfMemoryError: 42 GB", worker_died=False)
                continue
            checkpoint = read_trial(plan, context.checkpoints)
            history = checkpoint.history if checkpoint else ()
            budget = 1 if asha and seed in self.asha_stops else epochs
            while outcome(history, epochs=budget, patience=plan.training.patience) == "running":
                if self.kill_after is not None and len(self.trained) >= self.kill_after:
                    raise Killed
                history = (*history, epoch(len(history) + 1, self.curve(seed, len(history) + 1)))
                self.trained.append((seed, len(history)))
                save(
                    context.checkpoints / plan.trial_id,
                    self.network,
                    TrainingState(history, {"0.step": torch.tensor(1.0)}),
                    settings=plan.network,
                    training=plan.training,
                    info=INFO,
                    parent=None,
                )
        return errors


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)  # no test of this file cuts the power

    def run_with(trainer: Trainer, folder, trials, section=HALVING) -> list[TrialRecord]:
        context = TrainingContext(checkpoints=folder, dataset=None, reporter=Reporter(quiet=True))
        return run_phase(trials, section, context, trainer)

    return run_with


def summary(records: list[TrialRecord]) -> list[tuple[int, str, str | None, list[Epoch]]]:
    return [
        (r.plan.training.seed, r.status, r.error, list(r.checkpoint.history) if r.checkpoint else []) for r in records
    ]


def test_rungs():
    def budgets(epochs: int, first: int, reduction: int = 2, kind: str = "halving") -> list[int]:
        scheduler = SchedulerSpec(kind=kind, first_rung=first, reduction=reduction)
        return rungs(TrainingSpec(epochs=epochs, scheduler=scheduler))

    assert budgets(16, 2) == [2, 4, 8, 16] and budgets(8, 4) == [4, 8] and budgets(10, 1, 3) == [1, 3, 9, 10]
    assert budgets(8, 8) == budgets(8, 9) == budgets(8, 1, kind="none") == budgets(8, 1, kind="asha") == [8]


def test_survivors():
    def curve(*scores: float) -> list[Epoch]:
        return [epoch(number, score) for number, score in enumerate(scores, start=1)]

    histories = {
        "d": curve(0.5, 0.1),
        "b": curve(0.1, 0.5),
        "c": curve(0.4, math.nan),
        "a": curve(0.2, 0.3, 0.9),  # what came after the budget does not count
        "f": curve(math.nan),
        "e": curve(),
    }
    assert survivors(histories, 2, 1) == ["b", "d", "a", "c", "e", "f"]
    assert survivors(histories, 2, 2) == ["b", "d", "a"]
    assert survivors(histories, 2, 4) == ["b", "d"], "rounded up"
    assert survivors(histories, 3, 6) == ["a"] and survivors(histories, 1, 6) == ["d"]
    assert survivors(dict(reversed(histories.items())), 2, 2) == ["b", "d", "a"]
    assert survivors({}, 2, 2) == []


def test_the_lowest_unfinished_rung_is_trained_first():
    trials = plans(4)
    name = [plan.trial_id for plan in trials]
    curves = {one: [epoch(1, 0.1 * number), epoch(2, 0.1 * number)] for number, one in enumerate(name)}
    first = decide(trials, {**curves, name[0]: [epoch(1, 0.9)]}, HALVING, failed={})
    assert (first.rung, first.train, first.halved) == (1, (trials[0],), {})
    second = decide(trials, curves, HALVING, failed={})
    assert (second.rung, second.train) == (2, (trials[2], trials[3]))
    assert second.halved == {name[0]: 2, name[1]: 2}
    failed = decide(trials, curves, HALVING, failed={name[3]: 2})
    assert failed.train == (trials[2],) and failed.halved == second.halved, "it took part in the first rung"
    assert decide(trials, curves, HALVING, failed={name[3]: 1}).train == (trials[1], trials[2])
    assert decide(trials, curves, HALVING, failed=dict.fromkeys(name, 1)).train == ()


def test_the_best_half_of_each_rung_goes_on(tmp_path, run):
    trials, trainer = plans(), Trainer()
    records = run(trainer, tmp_path, trials)
    alive = {plan.trial_id: plan.training.seed for plan in trials}
    for (seeds, budget), expected_budget in zip(trainer.calls, [2, 4, 8], strict=True):
        assert budget == expected_budget and set(seeds) == set(alive.values())
        ranked = sorted(alive, key=lambda i: (-max(slow_starter(alive[i], n) for n in range(1, budget + 1)), i))
        alive = {identity: alive[identity] for identity in ranked[: math.ceil(len(ranked) / 2)]}
    assert [len(seeds) for seeds, _ in trainer.calls] == [8, 4, 2]
    epochs = {record.plan.training.seed: record.checkpoint.history[-1].epoch for record in records}
    assert sorted(epochs.values()) == [2, 2, 2, 2, 4, 4, 8, 8]
    for record in records:
        done = epochs[record.plan.training.seed] == 8
        assert record.status == ("finished" if done else "stopped_by_halving") and record.error is None
    assert records == rank_records(records)
    assert str(records[0].weights).startswith(records[0].plan.trial_id + "@")


def test_killed_anywhere_a_phase_ends_as_if_it_had_not_been(tmp_path, run):
    whole = Trainer()
    expected = summary(run(whole, tmp_path / "whole", plans()))
    for kill_after in range(0, len(whole.trained), 4):
        folder = tmp_path / str(kill_after)
        first, second, third = Trainer(kill_after=kill_after), Trainer(kill_after=5), Trainer()
        for trainer in (first, second):
            with pytest.raises(Killed):
                run(trainer, folder, plans())
            if len(whole.trained) - kill_after <= 5:
                break
        assert summary(run(third, folder, plans())) == expected
        trained = first.trained + second.trained + third.trained
        assert len(trained) == len(set(trained)) and set(trained) == set(whole.trained), "nothing is trained twice"


@pytest.mark.parametrize("rung", [1, 2, 3])
def test_a_phase_goes_on_after_each_rung(tmp_path, run, rung):
    whole = Trainer()
    expected = summary(run(whole, tmp_path / "whole", plans()))
    budgets = [2, 4, 8][:rung]
    done = sum(
        sum(e <= b and e > lower for _, e in whole.trained) for b, lower in zip(budgets, [0, 2, 4], strict=False)
    )
    if rung < 3:
        with pytest.raises(Killed):
            run(Trainer(kill_after=done), tmp_path / "killed", plans())
    else:
        run(Trainer(), tmp_path / "killed", plans())
    again = Trainer()
    assert summary(run(again, tmp_path / "killed", plans())) == expected
    assert [budget for _, budget in again.calls] == [2, 4, 8][rung:], "a rung that is done is not submitted"


def test_patience_and_divergence_are_told_and_not_halving(tmp_path, run):
    def curve(seed: int, number: int) -> float:
        return {0: math.nan, 1: 0.1 + 0.01 * number}.get(seed, 0.5)

    records = run(Trainer(curve), tmp_path, plans(4, patience=1))
    assert {r.plan.training.seed: r.status for r in records} == {
        **{0: "diverged", 1: "stopped_by_halving"},
        **{2: "stopped_early", 3: "stopped_early"},
    }
    assert math.isnan(records[-1].score) and records[-1].plan.training.seed == 0


@pytest.mark.parametrize("section", [HALVING, TrainingSpec(epochs=3)])
@pytest.mark.parametrize("failing", range(4))
def test_a_failed_trial_is_told_and_tried_again(tmp_path, run, section, failing):
    trials = plans(4)
    records = run(Trainer(fails={failing}), tmp_path, trials, section)
    told = [(r.plan.training.seed, r.status, r.error) for r in records][-1]
    assert told == (failing, "failed", "OutOfMemoryError: 42 GB")
    assert all(r.error is None and r.status != "failed" for r in records[:-1])
    again = Trainer()
    healed = run(again, tmp_path, trials, section)
    assert again.calls[0] == ([failing], rungs(section)[0]) and "failed" not in {r.status for r in healed}
    assert summary(healed) == summary(run(Trainer(), tmp_path / "whole", trials, section))


@pytest.mark.parametrize(("first", "then"), [(3, 4), (5, 8), (6, 7), (2, 8)])
def test_a_phase_that_grows_ends_as_the_larger_one(tmp_path, run, first, then):
    run(Trainer(), tmp_path / "grown", plans(first))
    grown, whole = (run(Trainer(), tmp_path / name, plans(then)) for name in ("grown", "whole"))
    assert summary(grown) == summary(whole)
    chosen = [(record.plan.trial_id, record.weights) for record in whole if record.status == "finished"]
    assert chosen == [(record.plan.trial_id, record.weights) for record in grown if record.status == "finished"]
    for mine, expected in zip(grown, whole, strict=True):
        assert mine.weights in (expected.weights, None), "never those of an epoch that is no part of this study"
    assert summary(run(Trainer(), tmp_path / "grown", plans(then))) == summary(whole)


@pytest.mark.parametrize("first", [1, 2])
def test_where_all_survivors_diverge_a_trial_that_once_went_on_is_trained_again(tmp_path, run, first):
    """Its best weights are those of an epoch that is no part of the larger study, which needs those of its rung."""

    def curve(seed: int, number: int) -> float:
        if seed < 2:
            return 0.1 * (2 - seed) + 0.01 * number  # 0.1 and 0.2, and rising
        return 0.5 if number <= 2 else math.nan

    small = run(Trainer(curve), tmp_path / "grown", plans(first))
    assert small[0].checkpoint.history[-1].epoch == 8
    grown, whole = (run(Trainer(curve), tmp_path / name, plans(4)) for name in ("grown", "whole"))
    assert summary(grown) == summary(whole) and grown[0].usable and grown[0].weights == whole[0].weights


def test_a_trial_that_fails_late_keeps_its_score(tmp_path, run):
    trials = plans(2)
    run(Trainer(), tmp_path, trials, TrainingSpec(epochs=2))
    records = run(Trainer(fails={0, 1}), tmp_path, trials, TrainingSpec(epochs=4))
    assert {r.status for r in records} == {"failed"} and all(r.checkpoint.history[-1].epoch == 2 for r in records)
    assert not any(math.isnan(r.score) for r in records)


def test_asha_s_verdicts_are_kept(tmp_path, run):
    section = TrainingSpec(epochs=4, scheduler=SchedulerSpec(kind="asha"))
    trainer = Trainer(asha_stops={0, 3}, fails={1})
    records = run(trainer, tmp_path, plans(4), section)
    expected = {0: "stopped_by_asha", 1: "failed", 2: "finished", 3: "stopped_by_asha"}
    assert {r.plan.training.seed: r.status for r in records} == expected
    again = Trainer()
    records = run(again, tmp_path, plans(4), section)
    assert again.calls == [([1], 4)], "only what failed is tried again"
    assert {r.plan.training.seed: r.status for r in records} == {**expected, 1: "finished"}
    assert {len(r.checkpoint.history) for r in records if r.status == "stopped_by_asha"} == {1}


def test_ranking_puts_ties_in_the_order_of_names_and_nothing_last():
    scores = [0.5, None, 0.9, 0.5, math.nan]
    base = plans(len(scores))
    records = []
    for plan, score in zip(base, scores, strict=True):
        checkpoint = None if score is None else type("Described", (), {"history": (epoch(1, score),)})()
        records.append(TrialRecord(plan, "finished", None, checkpoint, None))
    ranked = rank_records(records)
    assert ranked == rank_records(records[::-1]) and ranked[0] is records[2]
    assert [r.plan.trial_id for r in ranked[1:3]] == sorted([base[0].trial_id, base[3].trial_id])
    assert {r.plan.training.seed for r in ranked[3:]} == {1, 4}


class Dying(Trainer):
    """Every worker dies after so many epochs of a trial; 0: before the first."""

    def __init__(self, epochs_a_life: int) -> None:
        super().__init__()
        self.epochs_a_life = epochs_a_life

    def train(self, missing, epochs, context, *, name, asha=None):
        failures = {}
        for plan in missing:
            checkpoint = read_trial(plan, context.checkpoints)
            done = len(checkpoint.history) if checkpoint else 0
            reached = min(epochs, done + self.epochs_a_life)
            super().train([plan], reached, context, name=name)
            if reached < epochs:
                failures[plan.trial_id] = Failure("its worker died", worker_died=True)
        return failures


def test_a_trial_whose_workers_die_again_and_again_goes_on_while_it_comes_forward(tmp_path, run):
    expected = summary(run(Trainer(), tmp_path / "whole", plans()))
    dying = Dying(epochs_a_life=1)
    assert summary(run(dying, tmp_path / "dying", plans())) == expected
    assert len(dying.trained) == len(set(dying.trained)), "no epoch is trained twice"


def test_a_trial_whose_workers_die_before_an_epoch_is_given_up(tmp_path, run):
    records = run(Dying(epochs_a_life=0), tmp_path, plans(3))
    assert [(r.status, r.error) for r in records] == [("failed", "its worker died")] * 3


def test_versions_of_each_epoch_are_kept(tmp_path, run, monkeypatch):
    """A trial that goes on under other versions remembers which trained what."""
    section = TrainingSpec(epochs=3)
    for module in ("description", "tensors"):
        monkeypatch.setattr(f"study.checkpoints.{module}.versions", lambda: {"predictive-exit": "1"})
    run(Trainer(), tmp_path, plans(1), TrainingSpec(epochs=2))
    for module in ("description", "tensors"):
        monkeypatch.setattr(f"study.checkpoints.{module}.versions", lambda: {"predictive-exit": "2"})
    network = new_network(NETWORK, INFO, 0)
    (plan,) = plans(1)
    earlier = read_trial(plan, tmp_path)
    state = TrainingState((*earlier.history, epoch(3, 0.5)), {})
    save(
        tmp_path / plan.trial_id,
        network,
        state,
        settings=plan.network,
        training=plan.training,
        info=INFO,
        parent=None,
        made_by=made_by_now(earlier.made_by, 3),
    )
    found = read_trial(plan, tmp_path)
    assert [(first, made_by["predictive-exit"]) for first, made_by in found.made_by] == [(1, "1"), (3, "2")]
    provenance = Provenance(StudySpec(name="x").plain(), INFO.digest)
    write_trials(tmp_path / "tables", run(Trainer(), tmp_path, plans(1), section), provenance, data="digits")
    epochs = read_table(tmp_path / "tables", "epochs")
    versions = read_table(tmp_path / "tables", "provenance").set_index("provenance")["code_version"]
    assert epochs["provenance"].map(versions).tolist()[:3] == ["1", "1", "2"]
