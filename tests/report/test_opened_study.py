"""A study in Python: what it holds, which point it recommends, and what a stranger's folder cannot do."""

from __future__ import annotations

import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from support.browser import CHROMIUM, launched
from support.exact_spaces import ALL_KINDS
from support.run_folders import run_folder

from results.parts import read_table
from results.schemas import TableError
from results.storage.paths import location
from results.summary import summarize_front
from search_spaces.spec import GuaranteeSpec
from study import Study, UserError, replay
from study.cli.main import main
from study.run.certify import certify_stored

if TYPE_CHECKING:
    from support.s3_server import S3Server

pytest_plugins = ["support.s3_server"]

PACK = Path(__file__).parents[2] / "results" / "reference" / "vgg19-cifar10"
TABLES = ("trials", "epochs", "exits", "operating_points", "costs")


@pytest.fixture(scope="module")
def opened() -> Study:
    return Study.open(PACK)


@pytest.fixture(scope="module")
def front(opened: Study) -> pd.DataFrame:
    return opened.front()


def test_tables_are_data_frames_and_are_read_once(opened: Study) -> None:
    for name in TABLES:
        table = getattr(opened, name)
        pd.testing.assert_frame_equal(table, read_table(PACK / "tables", name))
        assert getattr(opened, name) is table


def test_the_front_has_shares_and_one_recommended_point(opened: Study, front: pd.DataFrame) -> None:
    summary = summarize_front(PACK / "tables")
    pd.testing.assert_frame_equal(front.drop(columns="recommended"), summary.points.drop(columns="recommended"))
    assert front.loc[front["recommended"], "number"].tolist() == [summary.recommended["number"]]
    assert opened.recommend().number == summary.recommended["number"]
    with pytest.raises(UserError, match="changes belong to exact=True"):
        opened.front(changes={"operating_points.policy": "static"})


def test_the_exact_front_takes_changes_of_the_space(opened: Study) -> None:
    changes = {"operating_points.policy": "static", "operating_points.quantization": "fp32"}
    exact = opened.front(exact=True, changes=changes)
    assert set(exact["policy"]) == {"static"} and set(exact["precision"]) == {"fp32"}
    assert exact["flops_share"].le(1).all()


@pytest.mark.parametrize("drop", [0.0, 0.003, 0.02, 0.1])
def test_without_a_budget_it_recommends_the_cheapest_point_within_the_loss(
    opened: Study, front: pd.DataFrame, drop: float
) -> None:
    near = front[front["accuracy_drop"] <= drop + 1e-12]
    assert opened.recommend(drop).row["flops"] == near["flops"].min()


@pytest.mark.parametrize(
    "budget", [{"flops": 1.5e8}, {"energy": 5e-4}, {"flops": 2.5e8, "energy": 0.002}, {"memory": 1e7, "bitops": 4e10}]
)
def test_a_budget_recommends_the_most_accurate_point_that_keeps_it(
    opened: Study, front: pd.DataFrame, budget: dict[str, float]
) -> None:
    columns = {"energy": "energy_joules", "memory": "memory_bytes"}
    kept = front
    for name, limit in budget.items():
        kept = kept[kept[columns.get(name, name)] <= limit]
    assert 0 < len(kept) < len(front)
    found = opened.recommend(budget=budget)
    assert found.row["accuracy"] == kept["accuracy"].max()
    assert found.row["flops"] == kept.loc[kept["accuracy"] == kept["accuracy"].max(), "flops"].min()
    assert "it is not certified" in found.reason and str(found.number) in found.command


def test_a_budget_that_costs_more_accuracy_than_asked_says_so(opened: Study) -> None:
    tight = {"flops": 6e7}
    assert "no point within the budget loses at most 0.5 points" in opened.recommend(0.005, budget=tight).reason
    assert "no point within" not in opened.recommend(0.5, budget=tight).reason


def test_a_confidence_recommends_a_certified_point(opened: Study) -> None:
    certified = certify_stored(PACK, GuaranteeSpec(accuracy_drop=0.02, confidence=0.9)).points
    certified = certified[certified["certified"]]
    found = opened.recommend(0.02, 0.9)
    cheapest = certified.loc[certified["flops_share"].idxmin()]
    assert found.number in set(certified["number"]) and len(certified) > 2
    assert found.row["flops"] == opened.front()["flops"][opened.front()["number"].isin(certified["number"])].min()
    assert (found.row["certified_drop"], found.row["certified_confidence"]) == (0.02, 0.9)
    assert f"it loses {cheapest['reported_loss'] * 100:.2f} points" in found.reason
    # Under a budget: the most accurate of the certified points that keep it.
    points = opened.front()
    limit = float(points.loc[points["number"].isin(certified["number"]), "flops"].median())
    kept = points[points["number"].isin(certified["number"]) & (points["flops"] <= limit)]
    within = opened.recommend(0.02, 0.9, {"flops": limit})
    assert within.row["accuracy"] == kept["accuracy"].max() and "certified: with 90 % confidence" in within.reason


def test_what_cannot_be_certified_is_refused_with_the_reason(opened: Study) -> None:
    with pytest.raises(UserError, match=r"^recommend: guarantee \(at most 0.001 points lost .*no point certified"):
        opened.recommend(1e-5, 0.99)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"budget": {"latency": 1.0}}, "does not know the latency"),
        ({"budget": {"energy": 1e-9}}, "no point needs 1e-09 J of energy at most; the nearest needs 0.000"),
        ({"budget": {"joules": 1.0}}, "the budget names 'joules': it may name bitops, energy"),
        ({"budget": {"flops": float("nan")}}, "finite number above 0"),
        ({"budget": {"flops": "much"}}, "finite number above 0"),
        ({"max_accuracy_drop": 1.0}, "max_accuracy_drop is 1.0"),
        ({"confidence": 90}, "confidence is 90"),
        ({"confidence": 0.9, "max_accuracy_drop": 0.0}, "must be above 0"),
        ({"data": "cifar10"}, "no front of data set cifar10"),
    ],
)
def test_a_wrong_question_is_refused(opened: Study, ask: dict[str, object], message: str) -> None:
    with pytest.raises((UserError, TableError), match=message):
        opened.recommend(**ask)  # type: ignore[arg-type]


def test_a_certificate_of_the_study_counts_up_to_the_loss_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(PACK, folder)
    opened = Study.open(folder)
    points = opened.front()
    cheap, dear = points["number"].iloc[[200, 300]]
    stored = points["number"].isin([cheap, dear])
    columns = {"certified_drop": 0.02, "certified_confidence": 0.9, "certified_samples": 500.0}
    summary = opened._summary(None)
    for name, value in columns.items():
        summary.points[name] = np.where(stored, value, np.nan)
    for drop in (None, 0.02, 0.05):
        assert opened.recommend(drop).number == cheap
    assert "not certified" in opened.recommend(0.01).reason
    assert opened.recommend(0.01).row.filter(like="certified_").isna().all()


@pytest.mark.parametrize(("split", "column"), [("validation", "accuracy"), ("test", "test_accuracy")])
def test_the_recommended_policy_on_the_trace_gives_the_accuracy_of_the_row(
    opened: Study, split: str, column: str
) -> None:
    found, trace = opened.recommend(), opened.trace(split=split)
    assert replay(trace, found.policy).accuracy(trace.labels) == pytest.approx(found.row[column])


def test_traces_are_found_by_trial_precision_and_split(opened: Study) -> None:
    trial = opened.costs["trial_id"].iloc[0]
    assert opened.trace(trial).classic_accuracy == pytest.approx(0.903)
    assert opened.trace(trial, "int8").classic_accuracy != opened.trace(trial, "fp32").classic_accuracy
    assert len(opened.trace(trial, split="calibration").labels) == 5000
    with pytest.raises(UserError, match="no network nobody: there are"):
        opened.trace("nobody")
    with pytest.raises(UserError, match=r"no network .* at bf16"):
        opened.trace(trial, "bf16")
    with pytest.raises(UserError, match="no certification trace"):
        opened.trace(trial, split="certification")


def test_compare_is_what_the_command_writes(opened: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = Path(PACK.parent / "vgg19-quarter-tiny-imagenet")
    rows = Study.open(str(small)).compare([0.01], changes={"operating_points.statistic": "mean_max"})
    options = ["--drop", "0.01", "--set", "operating_points.statistic=mean_max"]
    assert main(["compare", str(small), *options, "--output", str(tmp_path / "rows.csv")]) == 0
    capsys.readouterr()
    written = pd.read_csv(tmp_path / "rows.csv")
    assert rows["family"].tolist() == written["family"].tolist()
    np.testing.assert_allclose(rows["flops_share"], written["flops_share"])


def test_a_study_without_tables_opens_and_says_what_is_missing(tmp_path: Path) -> None:
    opened = Study.open(run_folder(tmp_path / "run", text=ALL_KINDS))
    for name in TABLES:
        assert len(getattr(opened, name)) == 0 and len(getattr(opened, name).columns) > 3
    with pytest.raises(TableError, match="has not written the table yet"):
        opened.front()
    assert "has not written the table yet" in opened._repr_html_()
    assert len(opened.trace("one").labels)


def test_damage_and_folders_without_a_study_are_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match="no run folder"):
            Study.open(folder)
    for address in ("ftp://host/x", "s3://user:secret@bucket/x"):
        with pytest.raises(UserError) as refused:
            Study.open(address)
        assert "secret" not in str(refused.value)
    folder = tmp_path / "pack"
    shutil.copytree(PACK, folder)
    part = next((folder / "tables" / "front").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(TableError, match="cannot be read as table front"):
        Study.open(folder).front()
    assert "cannot be read as table front" in Study.open(folder)._repr_html_()


class Tags(HTMLParser):
    """The tags and attributes of a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[object] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs


def test_texts_of_a_run_folder_are_inert_in_a_notebook(tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x onerror=alert(1)>\x1b[31m&'\""
    shutil.copytree(PACK, folder)
    opened = Study.open(folder)
    opened._summary(None).recommended["trial_id"] = "<script>alert(1)</script>"
    text = opened._repr_html_()
    seen = Tags(text)
    assert seen.tags <= {"h4", "p", "code", "table", "thead", "tbody", "tr", "th", "td"} and not seen.attributes
    assert "&lt;script&gt;" in text and "&lt;img src" in text and "\x1b" not in text
    assert f"{opened.recommend().row['flops_share']:.1%}" in text and "95 % interval" in text


def test_a_study_opens_on_an_object_store(s3: S3Server) -> None:
    uri = s3.uri("runs/pack")
    for path in [PACK / "study.yaml", *(PACK / "tables").rglob("*.parquet")]:
        target = location(uri) / str(path.relative_to(PACK))
        target.write_bytes(path.read_bytes())
    for folder in (uri, location(uri)):
        opened = Study.open(folder)
        assert opened.recommend().number == Study.open(PACK).recommend().number
        assert len(opened.trials) == 2 and "Recommended" in opened._repr_html_()


def test_the_report_is_written_into_the_folder_or_to_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(PACK, folder)
    opened = Study.open(folder)
    assert opened.report() == folder / "report.html"
    assert opened.report(tmp_path / "own.html") == tmp_path / "own.html"
    assert "Take point" in (tmp_path / "own.html").read_text("utf-8")
    with pytest.raises(UserError, match=r"must end in \.html"):
        opened.report(tmp_path / "own.pdf")


def test_the_plot_is_a_frame_that_no_text_leaves(tmp_path: Path) -> None:
    plot = Study.open(PACK).plot_front()
    frame = plot._repr_html_()
    seen = Tags(frame)
    assert seen.tags == {"iframe"} and ("sandbox", "allow-scripts") in seen.attributes
    (page,) = [value for name, value in seen.attributes if name == "srcdoc"]
    assert page == plot.page.decode()
    assert "vgg19-cifar10" in repr(plot)
    with pytest.raises(UserError, match="has no data set cifar10"):
        Study.open(PACK).plot_front("cifar10")
    nothing = Study.open(run_folder(tmp_path / "run", text=ALL_KINDS)).plot_front()
    assert "no operating points yet" in nothing.page.decode()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_the_plot_draws_the_front_in_a_notebook(tmp_path: Path) -> None:
    """A page stands for the notebook: the plot draws itself in its frame, and asks no host for anything."""
    page = tmp_path / "notebook.html"
    page.write_text(f"<!doctype html><meta charset=utf-8>{Study.open(PACK).plot_front()._repr_html_()}")
    complaints: list[str] = []
    requests: list[str] = []
    with launched() as browser:
        shown = browser.new_page(viewport={"width": 1000, "height": 950})
        shown.on("console", lambda one: complaints.append(one.text) if one.type in ("error", "warning") else None)
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.on("request", lambda one: requests.append(one.url))
        shown.goto(page.as_uri())
        frame = shown.frame_locator("iframe")
        frame.locator('[data-figure="front"] canvas').wait_for(timeout=30_000)
        assert "recommended" in frame.locator("aside.fixed").inner_text().lower()
        assert frame.locator(".points tbody tr").count() == 100
    assert not complaints
    assert [url for url in requests if not url.startswith("about:")] == [page.as_uri()]
