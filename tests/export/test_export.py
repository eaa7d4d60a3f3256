"""Exported points: the study's answers and exits, image for image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.exports import point_of_most_exits

from results.parts import read_table
from study import EarlyExit, OptimalStopping, replay
from study.cli.main import main
from study.data.loading import load_test_set
from study.data.settings import DataSettings, ImageSet
from study.export.point import choose_point, front_row
from study.policies.decision_table import table_for
from study.policies.replay import Walk
from study.run.reader import stored_logits, stored_networks, stored_study
from study.search.operating_point import OperatingPoint, point_of
from study.storage.strict_json import from_fields


def images_of(folder: Path) -> ImageSet:
    settings = choose_point(folder, None, None).checkpoint.data.settings
    return load_test_set(from_fields(DataSettings, settings), folder / "data")


def replayed(folder: Path, number: str) -> tuple[OperatingPoint, Walk, np.ndarray]:
    """A point, its walk on the stored test trace, and which images are away from every tie."""
    networks = stored_networks(folder, stored_study(folder).operating_points)
    point = point_of(front_row(folder, number, None), networks)
    test = stored_logits(folder, networks, "test")[point.network.weights, point.network.precision]
    trace = point.network.trace(point.statistic, test)
    scores, bounds = table_for(trace, point.policy).scores, np.zeros(0)
    if isinstance(point.policy, OptimalStopping):
        bounds = np.concatenate([np.asarray(one.bounds) for one in point.policy.tables.values()])
    elif not point.policy.knows_its_end:
        bounds = np.atleast_1d(point.policy.to_row()["beta"])
    flat = scores.reshape(len(scores), -1, 1)
    clear = (np.abs(flat - bounds) > 1e-4 * np.abs(bounds)).all(axis=(1, 2))
    return point, replay(trace, point.policy), clear


def recommended(folder: Path) -> str:
    front = read_table(folder / "tables", "front")
    return str(front.loc[front["recommended"], "number"].iloc[0])


def test_a_point_stops_and_answers_as_the_study_says(study_of_exits: Path, exported: Path) -> None:
    number = str(EarlyExit.load(exported, device="cpu").facts["point"]["number"])
    assert len(set(hold_against_the_study(study_of_exits, number, exported))) > 1


def test_points_of_each_criterion_do(study_of_exits: Path, tmp_path: Path) -> None:
    front = read_table(study_of_exits / "tables", "front").drop_duplicates(["policy", "criterion"], keep="last")
    for _, row in front.iterrows():
        folder = tmp_path / str(row["number"])
        command = ["export", str(study_of_exits), "--point", str(row["number"]), "--output", str(folder)]
        assert main(command) == 0
        hold_against_the_study(study_of_exits, str(row["number"]), folder)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_test_image_of_the_digits_gets_the_exit_and_the_answer_of_the_study(
    precision: str, study_of_precisions: Path, tmp_path: Path
) -> None:
    front = read_table(study_of_precisions / "tables", "front")
    if precision not in set(front["precision"]):
        pytest.skip(f"no point at {precision} on the front")
    number = point_of_most_exits(study_of_precisions, precision)
    command = ["export", str(study_of_precisions), "--point", number, "--output", str(tmp_path / "model")]
    assert main(command) == 0
    if precision == "fp32":
        hold_against_the_study(study_of_precisions, number, tmp_path / "model")
        return
    point, walk, _ = replayed(study_of_precisions, number)
    model, images = EarlyExit.load(tmp_path / "model", device="cpu"), images_of(study_of_precisions).images
    prediction = model.predict(images)
    assert len(prediction.exits) == len(walk.exit_index) == len(images)
    assert (prediction.exits == walk.exit_index).mean() >= 0.95
    assert (prediction.classes == walk.predictions).mean() >= 0.95
    assert model.int8_execution == point.network.validation.int8_execution


def hold_against_the_study(folder: Path, number: str, exported: Path) -> list[int]:
    """Hold exits, classes and costs against the replay of the test trace; returns the exits."""
    point, walk, clear = replayed(folder, number)
    model = EarlyExit.load(exported, device="cpu")
    prediction = model.predict(images_of(folder).images)
    np.testing.assert_array_equal(prediction.exits[clear], walk.exit_index[clear])
    np.testing.assert_array_equal(prediction.classes[clear], walk.predictions[clear])
    assert clear.mean() > 0.95
    expected = point.network.costs_of(point.policy).per_sample(walk, "flops")
    np.testing.assert_allclose(model.flops(prediction)[clear], expected[clear])
    assert (prediction.classes == images_of(folder).labels).mean() > 0.3, "the network has learned something"
    assert model.classic_flops == pytest.approx(point.network.costs.classic("flops"))
    exits: list[int] = prediction.exits.tolist()
    return exits


def test_the_point_is_the_recommended_one_unless_one_is_asked_for(study_of_exits: Path) -> None:
    assert choose_point(study_of_exits, None, None).reason is not None
    others = [str(number) for number in read_table(study_of_exits / "tables", "front")["number"]]
    asked = next(number for number in others if number != recommended(study_of_exits))
    assert choose_point(study_of_exits, asked, None).row["number"] == int(asked)
