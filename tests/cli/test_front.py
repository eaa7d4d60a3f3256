"""What ``front`` says of a study without a front, and of the network cut beside the front."""

import shutil
from pathlib import Path

import pytest
from support.run_folders import ONE, run_folder, study

from results.parts import read_table, rows_of, write_part
from results.summary import summarize_front
from study.cli.main import main
from study.cli.points import front_lines
from study.policies.policies import Hierarchical, Static
from study.progress import Reporter
from study.search.operating_point import OperatingPoint
from study.search.optuna_search import list_exact_points, search
from study.search.test_front import cost_rows, front_of, front_on_test, network_exit_rows, why_no_front

QUIET = Reporter(quiet=True)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("kind", ["tpe", "exact"])
@pytest.mark.parametrize("options", [(), ("--json",), ("--output", "front.csv"), ("--figure", "front.png")])
def test_a_study_that_no_point_keeps_is_told_the_reason_by_front_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str, options: tuple[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = run_folder(tmp_path / "run", ONE)
    spec = study("policy: static, constraints: {energy: 1e-9}").operating_points.model_copy(
        update={"trials": 8, "batch": 4}
    )
    tables, reason = folder / "tables", "no operating point of the exact front keeps the constraints"
    if kind == "exact":
        list_exact_points(spec, ONE, tables, name="x", reporter=QUIET)
    else:
        search(spec, ONE, tables, seed=0, name="x", reporter=QUIET)
        reason = why_no_front(read_table(tables, "operating_points"))
        assert "operating points keeps the constraints; the nearest exceeds energy by" in reason
    assert main(["front", str(folder), *options]) != 0
    assert "the study has not written the table yet" in capsys.readouterr().err, "the study may go on"
    write_part(tables, "costs", [row for one in ONE for row in cost_rows(one)], "x")
    assert main(["front", str(folder), *options]) == 2
    told = capsys.readouterr().err
    assert reason in told and told.count("\n") == 1
    assert not list(tmp_path.glob("front.*"))


@pytest.mark.parametrize("same_network", [True, False])
def test_the_network_cut_stands_beside_the_front_with_its_accuracy_on_test(tmp_path: Path, same_network: bool) -> None:
    one = ONE[0]
    points = [OperatingPoint(one, "mean_max", Hierarchical(1.0, 2)), OperatingPoint(one, None, Static(4))]
    known = {"search": "x", "trial_id": one.trial_id, "state": "COMPLETE", "feasible": True, "split": "validation"}
    rows = [{"number": number, **known, **point.settings(), **point.evaluate()} for number, point in enumerate(points)]
    write_part(tmp_path, "operating_points", rows)
    front = front_of(read_table(tmp_path, "operating_points"), ("accuracy", "flops"))
    front_rows, exit_rows = front_on_test(front, [one], ("accuracy", "flops"), lambda network: network.calibration, "t")
    write_part(tmp_path, "front", front_rows)
    write_part(tmp_path, "exits", network_exit_rows(one) + (exit_rows if same_network else []))
    summary = summarize_front(tmp_path, tolerance=0.5)
    assert summary.best_static is not None
    exit = int(summary.best_static["exit"])
    expected = OperatingPoint(one, None, Static(exit)).evaluate(one.calibration)
    line = next(line for line in front_lines(summary) if "simply cut" in line)
    if same_network:
        accuracy = expected["accuracy"]
        assert summary.static_test_accuracy == accuracy and line.endswith(f"for that; on test {accuracy:.2%}")
    else:
        assert summary.static_test_accuracy is None and line.endswith("; not evaluated on test")


@pytest.mark.parametrize(("change", "told"), [(-0.2, True), (0.001, False), (None, False)])
def test_the_balanced_accuracy_of_uneven_classes_has_a_column(
    finished_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: float | None, told: bool
) -> None:
    folder = shutil.copytree(finished_study, tmp_path / "uneven")
    front = read_table(folder / "tables", "front")
    shutil.rmtree(folder / "tables" / "front")
    balanced = None if change is None else front["test_accuracy"] + change
    write_part(folder / "tables", "front", list(rows_of(front.assign(test_balanced_accuracy=balanced))))
    assert main(["front", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert ("balanced" in printed.split()) is told
    assert balanced is None or (f"{balanced[0]:.2%}" in printed) is told
