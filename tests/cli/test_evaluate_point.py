"""``evaluate --point``: a point of a front on the live network gives the figures of the table."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.cli import result_of
from support.run_folders import refused
from support.studies import run_context, tiny_settings

from results.parts import read_table, rows_of, write_part
from search_spaces.spec import validate_space
from study.cli.main import main
from study.run.run import run_study


@pytest.fixture(scope="module")
def fitted_study(finished_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose front holds fitted policies, on the networks of the finished one."""
    settings = tiny_settings()
    settings["operating_points"] = {
        "search": "exact",
        "objectives": ["accuracy", "flops"],
        "policy": ["head_thresholds", "optimal_stopping"],
        "criterion": "margin",
    }
    folder = tmp_path_factory.mktemp("fitted") / "tiny"
    for part in ("checkpoints", "traces"):
        shutil.copytree(finished_study / part, folder / part)
    run_study(validate_space(settings, "tiny"), run_context(folder))
    return folder


def test_every_point_is_on_the_live_network_what_the_table_says(
    fitted_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    front = read_table(fitted_study / "tables", "front")
    assert front["price"].notna().all()
    for _, row in front.iloc[:: max(1, len(front) // 3)].iterrows():
        command = f"evaluate --point {fitted_study} {row['number']} --device cpu"
        live, on_test = (result_of(f"{command} --split {split}", capsys) for split in ("validation", "test"))
        # One image may lie next to a threshold: the live logits differ from the traced ones in their last bits.
        assert live["accuracy"] == pytest.approx(row["accuracy"], abs=1.5 / live["samples"])
        assert live["flops"] == pytest.approx(row["flops"], rel=0.02)
        assert on_test["accuracy"] == pytest.approx(row["test_accuracy"], abs=1.5 / on_test["samples"])


def test_the_recommended_point_comes_first_with_its_command(
    fitted_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["front", str(fitted_study)]) == 0
    printed = capsys.readouterr().out
    front = read_table(fitted_study / "tables", "front")
    (number,) = front.loc[front["recommended"], "number"]
    assert printed.startswith(f"recommended: point {number} (")
    assert f"predictive-exit evaluate --point {fitted_study} {number}" in printed
    assert f"{number} *" in printed


def test_a_point_that_there_is_not_and_a_folder_without_weights_are_refused_in_a_line(
    fitted_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--point", str(fitted_study), "100000"]) == 2
    assert "has no point 100000; its points are 0, " in capsys.readouterr().err
    reference = Path(__file__).parents[2] / "results" / "reference" / "vgg19-cifar10"
    assert main(["evaluate", "--point", str(reference), str(_some_point(reference))]) == 2
    assert "a copy of a study has no weights" in capsys.readouterr().err


def _some_point(folder: Path) -> int:
    return int(read_table(folder / "tables", "front")["number"].iloc[0])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--beta 2", "--beta"),
        ("--policy static --exits 1", "--policy"),
        ("--criterion margin", "--criterion"),
        ("--start-layer 2", "--start-layer"),
        ("--statistic mean_max", "--statistic"),
        ("--quantization int8", "--quantization"),
        ("--backbone vgg19", "--backbone"),
        ("--forward-mode accuracy", "--forward-mode"),
    ],
)
def test_an_option_that_the_point_decides_is_refused(
    fitted_study: Path, options: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(f"evaluate --point {fitted_study} {_some_point(fitted_study)} {options}", capsys)
    assert f"{named} has no effect beside --point, which decides it" in told


def test_a_number_that_several_data_sets_have_needs_the_name_of_one(
    fitted_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "several"
    shutil.copytree(fitted_study, folder)
    rows = list(rows_of(read_table(folder / "tables", "front")))
    write_part(folder / "tables", "front", [{**row, "data": "svhn"} for row in rows], "svhn")
    command = f"evaluate --point {folder} {rows[0]['number']}"
    assert f"have the number {rows[0]['number']}: name the data set with --data" in refused(command, capsys)
    own = result_of(f"{command} --data {rows[0]['data']} --device cpu --split validation", capsys)
    assert own["accuracy"] == pytest.approx(rows[0]["accuracy"], abs=1.5 / own["samples"])


def test_a_point_has_other_energies_on_another_device_and_the_same_accuracy(
    fitted_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"evaluate --point {fitted_study} {_some_point(fitted_study)} --device cpu --split validation"
    usual, other = result_of(command, capsys), result_of(f"{command} --costs jetson-tx2", capsys)
    assert (usual["accuracy"], usual["flops"]) == (other["accuracy"], other["flops"])
    assert usual["energy_source"] == "modelled:horowitz-2014-45nm" and other["energy_source"] == "modelled:jetson-tx2"
    assert usual["energy_joules"] != other["energy_joules"]
