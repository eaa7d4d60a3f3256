"""Guarantees: the path from safe to cheap, what is certified on it, and whole studies with a guarantee."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from support.run_folders import refused
from support.studies import run_context, tiny_study

from results.parts import read_table, rows_of
from search_spaces import SpecError
from search_spaces.spec import GuaranteeSpec, StudySpec, parse_space, validate_space
from study.cli.main import main
from study.data.loading import load_dataset
from study.errors import UserError
from study.progress import Reporter
from study.run import run as study_run
from study.run.plan import RunContext, resolve_names
from study.run.reader import stored_logits, stored_networks, stored_study
from study.run.run import run_study
from study.search.betting_bound import drop_bound
from study.search.cross_fit import classic_right
from study.search.guarantee import guarantee_words, random_halves, right_answers, safe_to_cheap
from study.search.operating_point import point_of
from study.search.traced_network import reference_network
from study.traces.trace import SplitLogits

# The path


def front(accuracies: list[float], flops: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"accuracy": accuracies, "flops": flops})


def test_the_path_goes_from_safe_to_cheap_and_ends_at_twice_the_limit() -> None:
    points = front([0.885, 0.91, 0.88, 0.90, 0.86, 0.895], [2.0, 9.0, 1.0, 6.0, 0.5, 7.0])
    assert safe_to_cheap(points, 0.9, 0.01) == (1, 3, 0, 2), "dearer and worse, or beyond twice the limit"
    assert safe_to_cheap(points, 0.95, 0.01) == ()


def test_a_long_path_keeps_its_ends_and_about_forty_points() -> None:
    order = np.random.default_rng(3).permutation(500)
    points = front((0.9 - order * 2e-5).tolist(), (500.0 - order).tolist())
    path = safe_to_cheap(points, 0.9, 0.01)
    assert len(path) == 40 and order[path[0]] == 0 and order[path[-1]] == 499
    assert (np.diff(order[list(path)]) > 0).all()


def test_two_halves_are_random_and_hold_every_image_once() -> None:
    labels = np.arange(101)
    split = SplitLogits(np.zeros((101, 2, 3), dtype=np.float32), labels, None)
    first, second = random_halves(split)
    assert (len(first.labels), len(second.labels)) == (50, 51)
    assert np.array_equal(np.union1d(first.labels, second.labels), labels)
    assert 30 < first.labels.mean() < 70


# Study files


def test_a_guarantee_is_part_of_a_study_file() -> None:
    spec = parse_space("name: x\nguarantee: {}", "x")
    assert spec.guarantee == GuaranteeSpec(accuracy_drop=0.01, confidence=0.9) and spec.certification == 0.1
    assert validate_space(spec.plain(), "again") == spec
    assert parse_space("name: x", "x").certification == 0
    asked = parse_space("name: x\ndata: {certification: 0.2}", "x", [("guarantee.confidence", 0.8)])
    assert asked.guarantee == GuaranteeSpec(confidence=0.8) and asked.certification == 0.2
    again = validate_space(parse_space("name: x", "x").plain(), "x", [("guarantee.accuracy_drop", 0.02)])
    assert again.guarantee == GuaranteeSpec(accuracy_drop=0.02)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("guarantee: {accuracy_drop: 0}", r"guarantee\.accuracy_drop: .*0"),
        ("guarantee: {accuracy_drop: 1}", r"guarantee\.accuracy_drop: .*1"),
        ("guarantee: {confidence: 0.5}", r"guarantee\.confidence: .*0\.5"),
        ("guarantee: {confidence: .nan}", r"guarantee\.confidence: "),
        ("guarantee: 0.01", r"guarantee: "),
        ("guarantee: yes", r"guarantee: "),
        ("guarantee: {drop: 0.01}", r"guarantee\.drop: unknown key"),
        (
            "guarantee: {}\ndata: {certification: 0}",
            r"study: guarantee needs .*, or leave it out$",
        ),
        ("data: {certification: 1}", r"data\.certification: must be"),
    ],
)
def test_mistakes_in_a_guarantee_are_told(text: str, expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        parse_space(f"name: x\n{text}", "x")


def test_studies_without_a_guarantee_keep_their_images_and_the_names_of_their_trials() -> None:
    (settings,), trials, *_ = resolve_names(tiny_study())
    dataset = load_dataset(settings, Path("digits need no files"))
    assert dataset.certification is None
    assert dataset.info.digest == "25e8bb92b922360fa3aca6ac7721b5b6773a26fb6e42c929be372615f4524c53"
    names = [plan.trial_id for plan in trials.backbones_on(dataset.info.digest)]
    assert names == ["11dfd80bfb9c", "b0950658b0c9", "732fb4cfa08d"]


# Whole studies

POINTS = {"trials": 20, "networks": 1, "policy": ["predictive", "static"]}
SMALL = {
    "data": {"certification": 0.2},
    "backbones": {"trials": 1, "epochs": 4, "learning_rate": 0.01, "scheduler": {"kind": "none"}},
    "exits": {"trials": 1, "head": "conv"},
    "operating_points": POINTS,
}
CERTIFIED = ["certified_drop", "certified_confidence", "certified_samples"]


def asking(drop: float, confidence: float = 0.6, **points: Any) -> StudySpec:
    return tiny_study(
        **{**SMALL, "operating_points": {**POINTS, **points}},
        guarantee={"accuracy_drop": drop, "confidence": confidence},
    )


class Lines(Reporter):
    """Keeps the lines."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def run(spec: StudySpec, folder: Path, *, extend: bool = False) -> list[str]:
    reporter = Lines()
    context = run_context(folder)
    run_study(
        spec, RunContext(folder=folder, data_root=context.data_root, local=True, reporter=reporter), extend=extend
    )
    return [line for line in reporter.lines if line.startswith("guarantee")]


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certified") / "tiny"
    (line,) = run(asking(0.3), folder)
    assert "at most 30 points lost on new images, with 60 % confidence" in line and "certified on 48 images" in line
    return folder


def copied(folder: Path, destination: Path, *parts: str) -> Path:
    for part in parts:
        shutil.copytree(folder / part, destination / part)
    return destination


def assert_marked_points_are_certified(folder: Path, drop: float, confidence: float, images: int) -> None:
    """The walk again, from the files, point by point."""
    table = read_table(folder / "tables", "front")
    networks = stored_networks(folder, stored_study(folder).operating_points)
    (logits,) = stored_logits(folder, networks, "certification").values()
    path = safe_to_cheap(table, reference_network(networks).classic_accuracy, drop)
    bounds = [
        drop_bound(classic_right(logits) - right_answers(point_of(row, networks), logits), confidence)
        for row in rows_of(table.iloc[list(path)])
    ]
    expected = path[: next((place for place, bound in enumerate(bounds) if bound > drop), len(path))]
    marked = table[CERTIFIED].notna()
    assert marked["certified_drop"].to_numpy().nonzero()[0].tolist() == sorted(expected) and len(expected)
    assert (marked.all(axis=1) == marked.any(axis=1)).all()
    rows = table.iloc[list(expected)][CERTIFIED].drop_duplicates()
    assert rows.to_numpy().tolist() == [[drop, confidence, images]]


def test_the_columns_follow_from_the_stored_traces(certified: Path) -> None:
    assert_marked_points_are_certified(certified, 0.3, 0.6, 48)


def test_a_killed_study_ends_the_same_and_traces_the_certification_images_after_the_choice(
    certified: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(certified, tmp_path / "tiny", "checkpoints", "traces", "tables")
    shutil.copy(certified / "study.yaml", folder)
    shutil.rmtree(folder / "tables" / "front")
    for trace in (folder / "traces").glob("*-certification-*"):
        shutil.rmtree(trace)
    order: list[str] = []
    search, trace_networks = study_run.search_operating_points, study_run.trace_networks

    def searching(*arguments: Any) -> Any:
        order.append("search")
        return search(*arguments)

    def tracing(networks: Any, splits: Any, *arguments: Any) -> Any:
        order.extend(splits)
        return trace_networks(networks, splits, *arguments)

    monkeypatch.setattr(study_run, "search_operating_points", searching)
    monkeypatch.setattr(study_run, "trace_networks", tracing)
    run(asking(0.3), folder)
    assert order == ["calibration", "validation", "search", "certification", "test"]
    one, other = (read_table(each / "tables", "front") for each in (certified, folder))
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_an_extended_study_certifies_again(certified: Path, tmp_path: Path) -> None:
    folder = copied(certified, tmp_path / "tiny", "checkpoints", "traces", "tables")
    shutil.copy(certified / "study.yaml", folder)
    run(asking(0.3, trials=30), folder, extend=True)
    assert_marked_points_are_certified(folder, 0.3, 0.6, 48)


def test_too_few_images_are_told_with_the_number_that_would_do(
    certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(certified, tmp_path / "tiny", "checkpoints", "traces")
    (line,) = run(asking(0.01, 0.9), folder)
    assert line.startswith("guarantee (at most 1 point lost on new images, with 90 % confidence): no point certified")
    assert "such images would certify it" in line or "would not certify it" in line or "on validation" in line
    assert read_table(folder / "tables", "front")[CERTIFIED].isna().all().all()
    printed = shown(folder, capsys)
    assert "no point is certified; `predictive-exit front" in printed
    assert "says how many images would be needed" in printed
    assert line in shown(folder, capsys, "--guarantee", "0.01")


def test_another_guarantee_is_another_study(certified: Path) -> None:
    with pytest.raises(UserError, match=r"guarantee.accuracy_drop is 0.3 there and 0.2 here"):
        run(asking(0.2), certified, extend=True)


# Stored studies


def shown(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    assert main(["front", str(folder), *options]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_the_front_of_a_study_recommends_its_cheapest_certified_point(
    certified: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = read_table(certified / "tables", "front")
    cheapest = table[table["certified_drop"].notna()].sort_values("flops").iloc[0]
    printed = shown(certified, capsys)
    assert f"recommended: point {cheapest['number']} " in printed and "with 60 % confidence" in printed
    assert json.loads(shown(certified, capsys, "--json"))["recommended"]["point"] == cheapest["number"]


def test_a_study_with_a_certification_split_certifies_on_it_and_reports_on_test(
    certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--guarantee", "0.3", "--confidence", "0.6"]
    printed = shown(certified, capsys, *asked, "--output", str(tmp_path / "points.csv"))
    assert "the certification split certifies (48 images), the test split reports (100 images)" in printed
    table = read_table(certified / "tables", "front")
    points = pd.read_csv(tmp_path / "points.csv")
    marked = table[table["certified_drop"].notna()]
    assert sorted(points[points["certified"]]["number"]) == sorted(marked["number"])
    for point in points.itertuples():
        row = table[table["number"] == point.number].iloc[0]
        assert point.reported_loss == pytest.approx(row["test_classic_accuracy"] - row["test_accuracy"])
        assert point.flops_share == pytest.approx(row["test_flops"] / row["classic_flops"])
        assert point.reported_loss_low <= point.reported_loss <= point.reported_loss_high
    strict = json.loads(shown(certified, capsys, "--guarantee", "0.001", "--json"))
    assert strict["certified_on"] == "certification" and not any(point["certified"] for point in strict["points"])


def test_a_second_guarantee_on_the_same_images_is_warned_of(
    certified: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--guarantee", "0.3", "--confidence", "0.6"]
    assert "warning" not in shown(certified, capsys, *own)
    assert json.loads(shown(certified, capsys, *own, "--json"))["used_before"] is None
    another = shown(certified, capsys, "--guarantee", "0.2")
    assert "tested another guarantee (at most 30 points lost on new images, with 60 % confidence)" in another
    again = json.loads(shown(certified, capsys, "--guarantee", "0.2", "--json"))
    assert again["used_before"] == {"accuracy_drop": 0.3, "confidence": 0.6}


def test_the_printed_table_fits_a_hundred_columns(certified: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["front", str(certified), "--guarantee", "0.3", "--confidence", "0.6"]) == 0
    printed = capsys.readouterr().out.splitlines()
    (title,) = (place for place, line in enumerate(printed) if "losses in points of accuracy" in line)
    table = printed[title : title + 5]
    assert "at" in table[2] and "certifying" in table[3]
    assert max(map(len, table)) <= 100


def test_a_high_confidence_is_told_as_it_is() -> None:
    assert guarantee_words(GuaranteeSpec(accuracy_drop=0.005, confidence=0.999)) == (
        "at most 0.5 points lost on new images, with 99.9 % confidence"
    )


def test_a_split_that_the_study_file_asks_for_certifies_without_a_guarantee_too(
    certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = asking(0.3)
    folder = copied(certified, tmp_path / "tiny", "checkpoints")
    assert run(asked.model_copy(update={"guarantee": None}), folder) == []
    printed = shown(folder, capsys, "--guarantee", "0.3", "--confidence", "0.6")
    assert "the certification split certifies (48 images), the test split reports (100 images)" in printed
    assert "warning" not in printed and read_table(folder / "tables", "front")[CERTIFIED].isna().all().all()


def test_a_study_without_a_split_certifies_on_a_half_of_its_test_images(
    certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same study, as if it had not asked."""
    folder = copied(certified, tmp_path / "tiny", "traces", "tables", "profiles")
    stored = yaml.safe_load((certified / "study.yaml").read_text())
    stored["study"]["guarantee"] = None
    stored["study"]["data"]["certification"] = None
    (folder / "study.yaml").write_text(yaml.safe_dump(stored))
    printed = shown(folder, capsys, "--guarantee", "0.3", "--confidence", "0.6")
    assert (
        "this study has no certification split: a random half of the test images certifies (50 images), "
        "the other half reports (50 images)"
    ) in printed
    found = json.loads(shown(folder, capsys, "--guarantee", "0.3", "--confidence", "0.6", "--json"))
    assert (found["certifying_images"], found["reporting_images"]) == (50, 50) and found["points"]
    assert "guarantee" not in shown(folder, capsys)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--guarantee 0", "above 0 and below 1"),
        ("--guarantee one", "above 0 and below 1"),
        ("--guarantee 0.01 --confidence 0.5", "above 0.5"),
        ("--guarantee 0.01 --exact", "leave out --exact"),
        ("--guarantee 0.01 --figure front.png", "leave out --exact and --figure"),
        ("--guarantee 0.01 --set operating_points.policy=static", "--set belongs to --exact"),
        ("--confidence 0.8", "--confidence belongs to --guarantee"),
        ("--exact --confidence 0.8", "--confidence belongs to --guarantee"),
    ],
)
def test_options_of_a_guarantee_that_cannot_be(
    certified: Path, options: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(f"front {certified} {options}", capsys)


def test_a_pack_certifies_again_from_the_rounded_logits(certified: Path, tmp_path: Path) -> None:
    assert main(["pack", str(certified), str(tmp_path / "pack")]) == 0
    table = read_table(tmp_path / "pack" / "tables", "front")
    assert table["certified_samples"].dropna().unique().tolist() == [48]
