"""A study of few images says how sure its recommended point is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from results.summary import summarize_front
from study.cli.points import recommendation_lines
from study.run.few_images import FEW, few_images_lines


def test_the_choice_the_loss_and_the_need_of_a_guarantee_are_told(finished_study: Path) -> None:
    summary = summarize_front(finished_study / "tables")
    chosen, loss, guarantee = few_images_lines(finished_study, summary)
    assert chosen == "few images: 48 validation images chose the point; one of them is 2.1 points"
    row = summary.recommended
    lost = (row["test_classic_accuracy"] - row["test_accuracy"]) * 100  # a study of one network
    side = "below" if lost >= 0 else "above"
    assert loss.startswith(f"on the 100 test images the point is {abs(lost):.2f} points {side} the classic network; ")
    most = float(loss.partition("loses at most ")[2].partition(" points")[0])
    assert lost < most < 100
    assert "with 90 % confidence) needs about 470 images that choose nothing" in guarantee


def test_a_copy_without_traces_tells_the_choice_alone(finished_study: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_study, tmp_path / "copy", ignore=shutil.ignore_patterns("traces", "checkpoints"))
    (line,) = few_images_lines(tmp_path / "copy", summarize_front(tmp_path / "copy" / "tables"))
    assert line.startswith("few images: 48 validation images")


def test_a_study_of_many_images_says_nothing_more(finished_study: Path) -> None:
    summary = summarize_front(finished_study / "tables")
    many = summary.recommended.copy()
    many["samples"] = many["test_samples"] = FEW
    assert few_images_lines(finished_study, replace(summary, recommended=many)) == []


def test_a_loss_of_nothing_has_no_minus_sign(finished_study: Path) -> None:
    summary = summarize_front(finished_study / "tables")
    same = summary.recommended.copy()
    for drop in (0.0, np.float64(1e-17)):
        same["accuracy_drop"] = drop
        assert "(+0.00 points)" in recommendation_lines(replace(summary, recommended=same), finished_study)[0]
