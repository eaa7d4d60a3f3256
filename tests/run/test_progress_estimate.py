"""What is left of a study, and how long it takes."""

from typing import Any

import pytest

from search_spaces.spec import StudySpec, parse_space
from study.run.status import PhaseOutline, outline, seconds_left, span
from study.run.trials import draw_trials, epochs_of


def study(text: str) -> StudySpec:
    return parse_space(f"name: x\n{text}", "x.yaml")


@pytest.mark.parametrize(
    ("trials", "scheduler", "keep", "expected"),
    [
        (8, "", 1, 8 * 16),
        (8, "scheduler: {kind: halving, first_rung: 2, reduction: 2}", 1, 8 * 2 + 4 * 2 + 2 * 4 + 1 * 8),
        (8, "scheduler: {kind: halving, first_rung: 2, reduction: 2}", 3, 8 * 2 + 4 * 2 + 3 * 4 + 3 * 8),
        (3, "scheduler: {kind: halving, first_rung: 4, reduction: 4}", 1, 3 * 4 + 1 * 12),
        (2, "scheduler: {kind: halving, first_rung: 20}", 1, 2 * 16),
    ],
)
def test_epochs_as_the_scheduler_hands_them_out(trials: int, scheduler: str, keep: int, expected: int) -> None:
    spec = study(f"backbones: {{epochs: 16, {scheduler}}}")
    assert epochs_of(spec.backbones, trials, keep=keep) == expected


def trial(mode: str, epochs: int, seconds: float, status: str = "finished", data: str = "digits") -> dict[str, object]:
    return {"data": data, "mode": mode, "status": status, "epochs": epochs, "seconds": seconds}


def outlined(spec: StudySpec, *arguments: Any) -> list[PhaseOutline]:
    return outline(draw_trials(spec), spec.data.names, *arguments)


def test_what_is_left_is_what_was_not_trained() -> None:
    spec = study("backbones: {trials: 4, epochs: 10, width: [0.1, 0.2, 0.3, 0.4]}\nexits: {epochs: 5}")
    backbones, exits = outlined(spec, [trial("original", 10, 20.0), trial("original", 4, 12.0, "failed")])
    assert (backbones.trials, backbones.started, backbones.failed) == (4, 2, 1)
    assert (backbones.epochs_left, backbones.seconds_per_epoch) == (26, 2.5)
    assert (exits.trials, exits.epochs_left, exits.seconds_left) == (1, 5, None)
    assert seconds_left([backbones, exits], 2) is None, "nobody knows what an epoch of exits takes"
    backbones, exits = outlined(spec, [trial("original", 10, 20.0)], {("digits", "exits"): 3.0})
    assert seconds_left([backbones, exits], 2) == 30 * 2 / 2 + 5 * 3.0
    done = [trial("original", 10, 20.0)] * 4 + [trial("exits", 5, 9.0)]
    assert seconds_left(outlined(spec, done), 2) == 0


def test_each_data_set_has_its_own_halves() -> None:
    spec = study("data: {name: [digits, fashion_mnist]}")
    trials = [trial("original", 10, 5.0, data="fashion_mnist"), trial("original", 1, 5.0, data="digits")]
    phases = outlined(spec, trials)
    assert [(one.data, one.phase, one.epochs_left) for one in phases] == [
        ("digits", "backbones", 9),
        ("digits", "exits", 10),
        ("fashion_mnist", "backbones", 0),
        ("fashion_mnist", "exits", 10),
    ]


def test_own_weights_leave_no_backbone_to_train() -> None:
    backbones, _ = outlined(study("backbones: {pretrained: w.safetensors}"), [])
    assert (backbones.trials, backbones.epochs_left, backbones.seconds_left) == (1, 0, 0.0)


def test_spans_are_told_as_people_tell_them() -> None:
    assert [span(s) for s in (0.4, 29, 90, 3600, 7199, 36_000)] == ["1 s", "29 s", "2 min", "60 min", "2.0 h", "10.0 h"]
