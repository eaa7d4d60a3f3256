"""Exported points: the study's answers and exits, image for image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from results.parts import read_table
from study import EarlyExit, replay
from study.data.loading import load_test_set
from study.data.settings import DataSettings, ImageSet
from study.export.point import choose_point, front_row
from study.policies.decision_table import table_for
from study.policies.replay import Walk
from study.run.reader import stored_logits, stored_networks, stored_study
from study.search.operating_point import OperatingPoint, point_of


def images_of(folder: Path) -> ImageSet:
    return load_test_set(DataSettings(name="digits", limit=240, test_limit=100), folder / "data")


def replayed(folder: Path, number: str) -> tuple[OperatingPoint, Walk, np.ndarray]:
    """A point, its walk on the stored test trace, and which images are away from every tie."""
    networks = stored_networks(folder, stored_study(folder).operating_points)
    point = point_of(front_row(folder, number, None), networks)
    test = stored_logits(folder, networks, "test")[point.network.weights, point.network.precision]
    trace = point.network.trace(point.statistic, test)
    clear = np.ones(len(test.labels), dtype=bool)
    if not point.policy.knows_its_end:
        scores, beta = table_for(trace, point.policy).scores, point.policy.to_row()["beta"]
        clear = (np.abs(scores.reshape(len(scores), -1) / beta - 1) > 1e-4).all(axis=1)
    return point, replay(trace, point.policy), clear


def recommended(folder: Path) -> str:
    front = read_table(folder / "tables", "front")
    return str(front.loc[front["recommended"], "number"].iloc[0])


def test_the_recommended_point_stops_and_answers_as_the_study_says(finished_study: Path, exported: Path) -> None:
    point, walk, clear = replayed(finished_study, recommended(finished_study))
    model = EarlyExit.load(exported, device="cpu")
    prediction = model.predict(images_of(finished_study).images)
    np.testing.assert_array_equal(prediction.exits[clear], walk.exit_index[clear])
    np.testing.assert_array_equal(prediction.classes[clear], walk.predictions[clear])
    assert clear.mean() > 0.95
    expected = point.network.costs_of(point.policy).per_sample(walk, "flops")
    np.testing.assert_allclose(model.flops(prediction)[clear], expected[clear])
    assert model.classic_flops == pytest.approx(point.network.costs.classic("flops"))


def test_the_point_is_the_recommended_one_unless_one_is_asked_for(finished_study: Path) -> None:
    assert choose_point(finished_study, None, None).reason is not None
    others = [str(number) for number in read_table(finished_study / "tables", "front")["number"]]
    asked = next(number for number in others if number != recommended(finished_study))
    assert choose_point(finished_study, asked, None).row["number"] == int(asked)
